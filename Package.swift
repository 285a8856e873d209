// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// In `--version` and in documents, behind a plus sign.
let commit = Context.gitInformation.map { git in
    String(git.currentCommit.prefix(12)) + (git.hasUncommittedChanges ? "-modified" : "")
}

let package = Package(
    name: "vmtally",
    products: [
        .library(name: "KVM", targets: ["KVM"]),
        .library(name: "ExitStats", targets: ["ExitStats"]),
        .library(name: "BootRecords", targets: ["BootRecords"]),
        .library(name: "Rendering", targets: ["Rendering"]),
        .library(name: "Reports", targets: ["Reports"]),
        .library(name: "HostView", targets: ["HostView"]),
        .library(name: "LiveView", targets: ["LiveView"]),
        .library(name: "ThisHost", targets: ["ThisHost"]),
        .executable(name: "vmtally", targets: ["vmtally"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.7.0")
    ],
    targets: [
        .target(name: "CLinux"),
        .target(name: "CVersion", cSettings: commit.map { [.define("VMTALLY_COMMIT", to: "\"\($0)\"")] } ?? []),
        .target(name: "CLinuxKVM"),
        .target(name: "Linux", dependencies: ["CLinux"]),
        .target(name: "KVM", dependencies: ["CExitModule", "CLinux", "CLinuxKVM", "Linux"]),
        .target(name: "GuestCode", dependencies: ["Linux"]),
        .target(name: "ExitStats", dependencies: ["CLinux"]),
        .systemLibrary(name: "CVMTally", path: "guest-probe/include"),
        .systemLibrary(name: "CExitModule", path: "kernel-module"),
        .plugin(name: "GuestImages", capability: .buildTool()),
        .target(name: "ProbeImage", plugins: ["GuestImages"]),
        .target(name: "TestGuests", path: "Tests/TestGuests", plugins: ["GuestImages"]),
        .target(name: "TestSupport", path: "Tests/Support"),
        .systemLibrary(name: "CBPF", path: "bpf/libbpf"),
        .systemLibrary(name: "CNCurses"),
        .plugin(name: "BPFPrograms", capability: .buildTool()),
        .target(name: "ThisHost", dependencies: ["CLinux"]),
        .target(
            name: "HostView", dependencies: ["CBPF", "CLinux", "ExitStats", "KVM", "Linux"], plugins: ["BPFPrograms"]),
        .target(name: "SeededRandom"),
        .target(name: "BootRecords", dependencies: ["ExitStats", "SeededRandom"]),
        .executableTarget(
            name: "vmtally-fidelity",
            dependencies: [
                "Bench", "CLinuxKVM", "ExitStats", "HostView", "Machine", "Outcomes", "Reports", "ProbeImage",
                "TestGuests", "TestSupport", "ThisHost",
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
            dependencies: ["BootRecords", "CVersion", "ExitStats", "GuestCode", "Rendering", "ThisHost"]),
        .target(
            name: "Outcomes",
            dependencies: ["Bench", "ExitStats", "KVM", "Machine", "Reports", "ThisHost"]),
        .target(name: "LiveView", dependencies: ["HostView", "Reports"]),
        .executableTarget(
            name: "vmtally",
            dependencies: [
                "Bench", "BootRecords", "Boots", "CLinux", "CNCurses", "ExitStats", "GuestCode", "HostView", "KVM",
                "Linux", "LiveView", "Machine", "Outcomes", "ProbeImage", "Rendering", "Reports", "ThisHost",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]
        ),
        .target(name: "CBenchmarks", path: "Benchmarks/CBenchmarks"),
        .executableTarget(
            name: "vmtally-benchmarks",
            dependencies: [
                "CBenchmarks", "CLinux", "CLinuxKVM", "ExitStats", "HostView", "KVM", "LiveView", "Machine",
                "MadeUpExits", "Rendering", "Reports", "ThisHost",
            ],
            path: "Benchmarks/Harness"),
        .testTarget(name: "BootRecordsTests", dependencies: ["BootRecords", "ExitStats", "SeededRandom"]),
        .testTarget(name: "CodegenTests"),
        .target(name: "MadeUpExits", dependencies: ["CBPF", "ExitStats", "HostView"], path: "Tests/MadeUpExits"),
        .testTarget(name: "HostViewTests", dependencies: ["CBPF", "ExitStats", "HostView", "MadeUpExits"]),
        .testTarget(name: "GuestCodeTests", dependencies: ["GuestCode", "TestSupport"]),
        .testTarget(name: "KVMTests", dependencies: ["CExitModule", "CLinux", "KVM", "Linux"]),
        .testTarget(name: "ExitStatsTests", dependencies: ["CVMTally", "ExitStats", "SeededRandom"]),
        .target(name: "CTestSupport", path: "Tests/CTestSupport"),
        .testTarget(
            name: "MachineTests",
            dependencies: [
                "Bench", "CLinux", "CLinuxKVM", "CTestSupport", "ExitStats", "GuestCode", "HostView", "KVM", "Linux",
                "Machine", "ProbeImage", "TestSupport",
            ]),
        .testTarget(
            name: "FuzzTests",
            dependencies: [
                "BootRecords", "CLinuxKVM", "CTestSupport", "GuestCode", "Linux", "Machine", "Reports", "SeededRandom",
            ],
            exclude: ["Corpus"]),
        .testTarget(name: "LabTests", dependencies: ["TestSupport"], exclude: ["Scripts", "totals"]),
        .testTarget(
            name: "LinuxGuestTests",
            dependencies: ["GuestCode", "KVM", "Linux", "Machine", "SeededRandom", "TestSupport"]),
        .testTarget(name: "ProbeTests", dependencies: ["ProbeImage", "ExitStats", "CTestSupport", "CVMTally"]),
        .testTarget(
            name: "ReportsTests",
            dependencies: ["BootRecords", "ExitStats", "KVM", "Rendering", "Reports", "ThisHost"]),
    ],
    swiftLanguageModes: [.v6]
)

// Linked with libFuzzer, which has the main function: for `make fuzz-coverage` alone.
if Context.environment["VMTALLY_FUZZ_COVERAGE"] != nil {
    package.targets.append(
        .executableTarget(
            name: "vmtally-fuzz",
            dependencies: [
                "BootRecords", "CLinuxKVM", "CTestSupport", "ExitStats", "GuestCode", "KVM", "Linux", "Machine",
            ],
            path: "Tests/FuzzCoverage"))
}
