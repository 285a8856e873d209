// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// `vmtally export`. A package of its own: an HTTP server has no place in the program that runs guests, and whoever runs
// `make demo` is not to fetch and build SwiftNIO.
let package = Package(
    name: "vmtally-export",
    dependencies: [
        .package(name: "vmtally", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
    ],
    targets: [
        .executableTarget(
            name: "vmtally-export",
            dependencies: [
                .product(name: "HostView", package: "vmtally"),
                .product(name: "LiveView", package: "vmtally"),
                .product(name: "Reports", package: "vmtally"),
                .product(name: "ThisHost", package: "vmtally"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ]),
        .testTarget(
            name: "ExporterTests",
            dependencies: [
                "vmtally-export",
                .product(name: "ExitStats", package: "vmtally"),
                .product(name: "HostView", package: "vmtally"),
                .product(name: "LiveView", package: "vmtally"),
                .product(name: "Reports", package: "vmtally"),
                .product(name: "ThisHost", package: "vmtally"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)
