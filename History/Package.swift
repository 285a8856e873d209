// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// `vmtally history`. A package of its own: whoever runs `make demo` is not to fetch and build GRDB.
let package = Package(
    name: "vmtally-history",
    dependencies: [
        .package(name: "vmtally", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/groue/GRDB.swift", exact: "7.10.0"),
    ],
    targets: [
        .executableTarget(
            name: "vmtally-history",
            dependencies: [
                .product(name: "BootRecords", package: "vmtally"),
                .product(name: "Rendering", package: "vmtally"),
                .product(name: "Reports", package: "vmtally"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        .testTarget(
            name: "HistoryTests",
            dependencies: [
                "vmtally-history",
                .product(name: "Rendering", package: "vmtally"),
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)
