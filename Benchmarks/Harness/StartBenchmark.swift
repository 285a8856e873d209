// SPDX-License-Identifier: Apache-2.0
import CBenchmarks
import Glibc

/// From exec to the guest's first instruction and to its first byte, and how large the program grows.
///
/// The first instruction is the KVM_RUN of the vCPU's thread, seen from outside by a seccomp filter. The first byte is a
/// line feed that the guest's first instructions send to the UART; its clock runs from just before fork until the byte has
/// come through the pipe: fork, exec, two exits and the pipe are in the figure. The first instruction has its target beside a
/// plain C program's, in turns: a start's time hangs on the machine's hour.
struct StartBenchmark {
    var rounds = 25
    /// The program under test.
    let program: String

    private struct Variant {
        let name: String
        let command: [String]
        var startsGuest = true
        var sendsByte = true
        /// The issue's limits hold for it.
        var isTarget = false
    }

    func run(progress: (String) -> Void) throws -> [Figure] {
        let guest = try TemporaryFile(LoopGuest.firstByte)
        let run = [program, "run", "--guest", guest.path, "--quiet"]
        let plainC = Variant(name: "plain C", command: [CommandLine.arguments[0], "plain-start", guest.path])
        let variants = [
            plainC,
            Variant(name: "demo", command: [program, "demo"], sendsByte: false, isTarget: true),
            Variant(
                name: "demo --live-cpuid off", command: [program, "demo", "--live-cpuid", "off"], sendsByte: false),
            Variant(name: "run --guest", command: run, isTarget: true),
            Variant(name: "run --guest --live-cpuid off", command: run + ["--live-cpuid", "off"]),
            Variant(name: "--version: no VM", command: [program, "--version"], startsGuest: false),
        ]
        // In turns, so that what drifts hits all alike.
        var instructions = [[Double]](repeating: [], count: variants.count)
        var bytes = instructions
        for round in 0..<rounds {
            for (index, variant) in variants.enumerated() {
                if variant.startsGuest {
                    instructions[index].append(try firstInstruction(variant.command))
                }
                if variant.sendsByte {
                    bytes[index].append(Double(try self.run(variant.command).first_byte_ns) / 1e6)
                }
            }
            progress("start: round \(round + 1) of \(rounds)")
        }
        return try variants.enumerated().flatMap { index, variant in
            let name = variant.name
            var figures: [Figure] = []
            if variant.startsGuest {
                figures.append(Figure("\(name): exec to first instruction", unit: "ms", instructions[index]))
            }
            if variant.isTarget {
                figures.append(
                    Figure(
                        "\(name): first instruction / plain C's", unit: "ratio",
                        zip(instructions[index], instructions[0]).map { $0 / $1 },
                        ratioOfMedians: Series(instructions[index]).median / Series(instructions[0]).median,
                        target: 5.0))
            }
            if variant.sendsByte {
                figures.append(Figure("\(name): fork to first byte", unit: "ms", bytes[index]))
            }
            // Without a VM it is gone before it can be watched.
            guard variant.startsGuest, index > 0 else { return figures }
            let runs = try (0..<6).map { _ in try self.run(variant.command, measuringMemory: true) }
            let peaks = runs.map { Double($0.peak_kib) / 1024 }
            let anonymous = runs.map { Double($0.anonymous_kib) / 1024 }
            return figures + [
                Figure("\(name): peak resident size", unit: "MiB", peaks, target: 8),
                Figure("\(name): of it anonymous at exit", unit: "MiB", anonymous),
            ]
        }
    }

    /// Milliseconds.
    private func firstInstruction(_ command: [String]) throws -> Double {
        var strings: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        defer { strings.forEach { free($0) } }
        let time = program_first_run_ns(&strings, "vcpu0")
        guard time >= 0 else {
            throw BenchmarkError("\(command.joined(separator: " ")): no KVM_RUN seen, errno \(-time)")
        }
        return Double(time) / 1e6
    }

    private func run(_ command: [String], measuringMemory: Bool = false) throws -> program_run {
        var run = program_run()
        var strings: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        defer { strings.forEach { free($0) } }
        let error = program_run(&strings, measuringMemory ? 1 : 0, &run)
        guard error == 0, run.first_byte_ns > 0 else {
            throw BenchmarkError("\(command.joined(separator: " ")): errno \(-error), wait status \(run.status)")
        }
        return run
    }
}

/// A file that lives as long as this does.
struct TemporaryFile: ~Copyable {
    let path: String

    init(_ bytes: [UInt8]) throws {
        var template = Array("/tmp/vmtally-benchmark-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        guard descriptor >= 0, write(descriptor, bytes, bytes.count) == bytes.count else {
            throw BenchmarkError("cannot write a temporary file: errno \(errno)")
        }
        close(descriptor)
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit {
        unlink(path)
    }
}
