// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let package = Package(
    name: "tiny-vmm",
    dependencies: [.package(name: "vmtally", path: "../..")],
    targets: [
        .executableTarget(
            name: "tiny-vmm",
            dependencies: [
                .product(name: "KVM", package: "vmtally"), .product(name: "ExitStats", package: "vmtally"),
            ])
    ],
    swiftLanguageModes: [.v6]
)
