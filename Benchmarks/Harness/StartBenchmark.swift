import CBenchmarks
import Glibc

/// From exec to the guest's first instruction, and how large the program grows.
///
/// The guest's first instructions send a line feed to the UART, and the clock runs from just before fork until that
/// byte has come through the pipe: fork, exec, two exits and the pipe are in the figure.
struct StartBenchmark {
    var rounds = 25
    /// The program under test.
    let program: String

    func run(progress: (String) -> Void) throws -> [Figure] {
        let guest = try TemporaryFile(LoopGuest.firstByte)
        let variants = [
            ("run --guest", ["run", "--guest", guest.path, "--quiet"], true),
            ("run --guest --live-cpuid off", ["run", "--guest", guest.path, "--quiet", "--live-cpuid", "off"], true),
            ("--version: no VM", ["--version"], true),
            ("demo", ["demo"], false),
        ]
        return try variants.flatMap { name, arguments, toFirstByte in
            var times: [Double] = []
            for _ in 0..<(toFirstByte ? rounds : 0) {
                times.append(Double(try run(arguments).first_byte_ns) / 1e6)
            }
            var peaks: [Double] = []
            var anonymous: [Double] = []
            // Without a VM it is gone before it can be watched.
            for _ in 0..<(name == "--version: no VM" ? 0 : toFirstByte ? 6 : 3) {
                let run = try run(arguments, measuringMemory: true)
                peaks.append(Double(run.peak_kib) / 1024)
                anonymous.append(Double(run.anonymous_kib) / 1024)
            }
            progress("start: \(name)")
            let isTarget = name == "run --guest"
            return [
                toFirstByte
                    ? Figure("\(name): exec to first byte", unit: "ms", times, target: isTarget ? 5 : nil) : nil,
                peaks.isEmpty ? nil : Figure("\(name): peak resident size", unit: "MiB", peaks, target: 8),
                peaks.isEmpty ? nil : Figure("\(name): of it anonymous at exit", unit: "MiB", anonymous),
            ].compactMap { $0 }
        }
    }

    private func run(_ arguments: [String], measuringMemory: Bool = false) throws -> program_run {
        var run = program_run()
        var strings: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
        defer { strings.forEach { free($0) } }
        let error = program_run(&strings, measuringMemory ? 1 : 0, &run)
        guard error == 0, run.first_byte_ns > 0 else {
            throw BenchmarkError("\(program): errno \(-error), wait status \(run.status)")
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
