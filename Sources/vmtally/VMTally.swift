// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import BootRecords
import CLinux
import Glibc
import Machine
import Reports

@main
struct VMTally: ParsableCommand {
    static let version = Release.version
    /// As documents name it.
    static let tool = BootRecording.Tool(name: "vmtally", version: version)

    static let configuration = CommandConfiguration(
        commandName: "vmtally",
        abstract: "Counts and times every VM exit, for the host and for the guest.",
        version: version,
        subcommands: [
            DemoCommand.self, RunCommand.self, BenchCommand.self, BootCommand.self, CompareCommand.self,
            HistoryCommand.self, HostCommand.self, CPUIDCommand.self, AllowCommand.self, DisallowCommand.self,
            TopCommand.self, AttachCommand.self, ExportCommand.self,
        ]
    )

    static func main() {
        vmtally_use_one_arena()
        occupyStandardDescriptors()
        StandardError.prepare()
        // A file that grows too large is an error of the write, with a message and the tally elsewhere.
        signal(SIGXFSZ, SIG_IGN)
        do {
            let arguments = try Arguments.read()
            // A jail wants a process of one thread, and who names the way to answer may want none.
            let unasked = ["--jail", "--live-cpuid"]
            if ["demo", "run"].contains(arguments.first),
                !arguments.contains(where: { word in unasked.contains { word.hasPrefix($0) } })
            {
                BreakpointSupport.tryAhead()
            }
            var command = try alone(arguments) ?? parseAsRoot(arguments)
            try command.run()
            finish(nil)
        } catch {
            finish(Advice.explained(error))
        }
    }

    /// The two commands whose start users wait for, parsed without the tree above them, and without the parser's search for
    /// a completion script, from which a `_superCommandName` spares them: a quarter of a start. Nil where that does not come
    /// out: then the tree says why.
    private static func alone(_ arguments: [String]) -> (any ParsableCommand)? {
        let command: any ParsableCommand.Type
        switch arguments.first {
        case "demo": command = DemoCommand.self
        case "run": command = RunCommand.self
        default: return nil
        }
        return try? command.parseAsRoot(Array(arguments.dropFirst()))
    }

    /// Says what there is to say and ends with the status that goes with it: 1 too where standard output has not taken
    /// all.
    private static func finish(_ error: (any Error)?) -> Never {
        let status = error.map { exitCode(for: $0).rawValue } ?? EXIT_SUCCESS
        let message = error.map { fullMessage(for: $0) } ?? ""
        if !message.isEmpty {
            // Help and version were asked for.
            if status == EXIT_SUCCESS { print(message) } else { StandardError.print(message) }
        }
        let lost = vmtally_flush_stdout()
        if lost != 0 {
            warn("standard output does not take all that it was to: \(String(cString: strerror(lost)))")
        }
        Glibc.exit(lost != 0 && status == EXIT_SUCCESS ? EXIT_FAILURE : status)
    }
}
