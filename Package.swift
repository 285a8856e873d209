// swift-tools-version: 6.1
import PackageDescription

let package = Package(
    name: "vmtally",
    products: [
        .library(name: "KVM", targets: ["KVM"]),
        .library(name: "ExitStats", targets: ["ExitStats"]),
        .library(name: "BootRecords", targets: ["BootRecords"]),
        .library(name: "Rendering", targets: ["Rendering"]),
        .library(name: "Reports", targets: ["Reports"]),
        .executable(name: "vmtally", targets: ["vmtally"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2")
    ],
    targets: [
        .target(name: "CLinux"),
        .target(name: "CLinuxKVM"),
        .target(name: "Linux", dependencies: ["CLinux"]),
        .systemLibrary(name: "CExitModule", path: "kernel-module"),
        .target(name: "KVM", dependencies: ["CExitModule", "CLinux", "CLinuxKVM", "Linux"]),
        .target(name: "GuestCode", dependencies: ["Linux"]),
        .target(name: "ExitStats"),
        .systemLibrary(name: "CVMTally", path: "guest-probe/include"),
        .plugin(name: "GuestImages", capability: .buildTool()),
        .target(name: "ProbeImage", plugins: ["GuestImages"]),
        .target(name: "TestGuests", path: "Tests/TestGuests", plugins: ["GuestImages"]),
        .target(name: "TestSupport", path: "Tests/Support"),
        .target(name: "HostView", dependencies: ["ExitStats"]),
        .target(name: "SeededRandom"),
        .target(name: "BootRecords", dependencies: ["ExitStats", "SeededRandom"]),
        .executableTarget(
            name: "vmtally-fidelity",
            dependencies: [
                "Bench", "CLinuxKVM", "ExitStats", "HostView", "Machine", "Reports", "ProbeImage", "TestGuests",
                "TestSupport",
            ],
            path: "Tests/Fidelity"
        ),
        .target(name: "Machine", dependencies: ["CLinux", "CLinuxKVM", "ExitStats", "GuestCode", "KVM", "Linux"]),
        .target(
            name: "Bench",
            dependencies: ["CLinux", "CLinuxKVM", "ExitStats", "KVM", "Linux", "Machine", "SeededRandom"]),
        .target(
            name: "Boots",
            dependencies: [
                "BootRecords", "ExitStats", "GuestCode", "HostView", "KVM", "Linux", "Machine", "SeededRandom",
            ]),
        .target(name: "Rendering"),
        .target(
            name: "Reports",
            dependencies: ["Bench", "BootRecords", "ExitStats", "GuestCode", "HostView", "KVM", "Machine", "Rendering"]),
        .executableTarget(
            name: "vmtally",
            dependencies: [
                "Bench", "BootRecords", "Boots", "CLinux", "GuestCode", "HostView", "KVM", "Linux", "Machine",
                "ProbeImage", "Rendering", "Reports",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]
        ),
        .target(name: "CBenchmarks", path: "Benchmarks/CBenchmarks"),
        .executableTarget(
            name: "vmtally-benchmarks",
            dependencies: [
                "CBenchmarks", "CLinux", "CLinuxKVM", "ExitStats", "HostView", "KVM", "Machine", "Rendering",
            ],
            path: "Benchmarks/Harness"),
        .testTarget(name: "BootRecordsTests", dependencies: ["BootRecords", "ExitStats", "SeededRandom"]),
        .testTarget(name: "CodegenTests"),
        .testTarget(name: "HostViewTests", dependencies: ["ExitStats", "HostView"]),
        .testTarget(name: "GuestCodeTests", dependencies: ["GuestCode", "TestSupport"]),
        .testTarget(name: "KVMTests", dependencies: ["CExitModule", "CLinux", "KVM", "Linux"]),
        .testTarget(name: "ExitStatsTests", dependencies: ["CVMTally", "ExitStats", "SeededRandom"]),
        .target(name: "CTestSupport", path: "Tests/CTestSupport"),
        .testTarget(
            name: "MachineTests",
            dependencies: [
                "Bench", "CLinux", "CLinuxKVM", "CTestSupport", "ExitStats", "GuestCode", "KVM", "Linux", "Machine",
                "ProbeImage",
                "TestSupport",
            ]),
        .testTarget(
            name: "FuzzTests",
            dependencies: [
                "BootRecords", "CLinuxKVM", "CTestSupport", "GuestCode", "Machine", "Reports", "SeededRandom",
            ],
            exclude: ["Corpus"]),
        .testTarget(name: "LabTests", dependencies: ["TestSupport"], exclude: ["Scripts", "totals"]),
        .testTarget(
            name: "LinuxGuestTests",
            dependencies: ["GuestCode", "KVM", "Machine", "SeededRandom", "TestSupport"]),
        .testTarget(name: "ProbeTests", dependencies: ["ProbeImage", "ExitStats", "CTestSupport", "CVMTally"]),
        .testTarget(
            name: "ReportsTests",
            dependencies: ["BootRecords", "ExitStats", "HostView", "KVM", "Rendering", "Reports"]),
    ],
    swiftLanguageModes: [.v6]
)
