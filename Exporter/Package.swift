// swift-tools-version: 6.1
import PackageDescription

// `vmtally export`. A package of its own: whoever runs `make demo` is not to fetch and build an HTTP server, and the
// main program is not to start slower for it.
let package = Package(
    name: "vmtally-export",
    dependencies: [
        .package(name: "vmtally", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/swhitty/FlyingFox", exact: "0.27.1"),
    ],
    targets: [
        .executableTarget(
            name: "vmtally-export",
            dependencies: [
                .product(name: "LiveView", package: "vmtally"),
                .product(name: "Reports", package: "vmtally"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "FlyingFox", package: "FlyingFox"),
            ]),
        .testTarget(name: "ExporterTests", dependencies: ["vmtally-export"]),
    ],
    swiftLanguageModes: [.v6]
)
