// swift-tools-version: 6.1
import PackageDescription

let package = Package(
    name: "vmtally",
    products: [
        .library(name: "KVM", targets: ["KVM"]),
        .library(name: "ExitStats", targets: ["ExitStats"]),
        .library(name: "BootRecords", targets: ["BootRecords"]),
        .library(name: "Reports", targets: ["Reports"]),
        .executable(name: "vmtally", targets: ["vmtally"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2")
    ],
    targets: [
        .target(name: "CLinuxKVM"),
        .target(name: "KVM", dependencies: ["CLinuxKVM"]),
        .target(name: "ExitStats"),
        .systemLibrary(name: "CVMTally", path: "guest-probe/include"),
        .plugin(name: "GuestImages", capability: .buildTool()),
        .target(name: "ProbeImage", plugins: ["GuestImages"]),
        .target(name: "TestGuests", path: "Tests/TestGuests", plugins: ["GuestImages"]),
        .target(name: "TestSupport", path: "Tests/Support"),
        .target(name: "HostView"),
        .target(name: "SeededRandom"),
        .target(name: "BootRecords", dependencies: ["SeededRandom"]),
        .executableTarget(
            name: "vmtally-fidelity",
            dependencies: [
                "KVM", "ExitStats", "HostView", "Machine", "Reports", "ProbeImage", "TestGuests", "TestSupport",
            ],
            path: "Tests/Fidelity"
        ),
        .target(name: "Machine", dependencies: ["KVM", "ExitStats", "SeededRandom"]),
        .target(name: "Reports", dependencies: ["BootRecords", "KVM", "ExitStats", "Machine"]),
        .executableTarget(
            name: "vmtally",
            dependencies: [
                "BootRecords", "KVM", "ExitStats", "HostView", "Machine", "Reports", "SeededRandom", "ProbeImage",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]
        ),
        .target(name: "CBenchmarks", path: "Benchmarks/CBenchmarks"),
        .executableTarget(
            name: "vmtally-benchmarks",
            dependencies: ["CBenchmarks", "CLinuxKVM", "ExitStats", "KVM", "Machine", "Reports"],
            path: "Benchmarks/Harness"),
        .testTarget(name: "BootRecordsTests", dependencies: ["BootRecords", "SeededRandom"]),
        .testTarget(name: "CodegenTests"),
        .testTarget(name: "HostViewTests", dependencies: ["HostView"]),
        .testTarget(name: "KVMTests", dependencies: ["KVM"]),
        .testTarget(name: "ExitStatsTests", dependencies: ["ExitStats", "SeededRandom"]),
        .target(name: "CTestSupport", path: "Tests/CTestSupport"),
        .testTarget(
            name: "MachineTests",
            dependencies: ["Machine", "KVM", "ExitStats", "ProbeImage", "CTestSupport", "TestSupport"]),
        .testTarget(
            name: "FuzzTests",
            dependencies: ["BootRecords", "Machine", "Reports", "SeededRandom", "CTestSupport"], exclude: ["Corpus"]),
        .testTarget(name: "LabTests", dependencies: ["TestSupport"], exclude: ["Scripts", "totals"]),
        .testTarget(name: "LinuxGuestTests", dependencies: ["Machine", "SeededRandom", "TestSupport"]),
        .testTarget(name: "ProbeTests", dependencies: ["ProbeImage", "ExitStats", "CVMTally"]),
        .testTarget(name: "ReportsTests", dependencies: ["Reports", "BootRecords", "KVM", "ExitStats"]),
    ],
    swiftLanguageModes: [.v6]
)
