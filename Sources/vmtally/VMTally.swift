import ArgumentParser

@main
struct VMTally: ParsableCommand {
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "vmtally",
        abstract: "Counts and times every VM exit, for the host and for the guest.",
        version: version,
        subcommands: [
            DemoCommand.self, RunCommand.self, BenchCommand.self, BootCommand.self, CompareCommand.self,
            HistoryCommand.self, HostCommand.self, CPUIDCommand.self, AllowCommand.self, DisallowCommand.self,
            TopCommand.self, AttachCommand.self,
        ]
    )

    static func main() {
        occupyStandardDescriptors()
        do {
            var command = try parseAsRoot(nil)
            try command.run()
        } catch {
            exit(withError: Advice.explained(error))
        }
    }
}
