import ArgumentParser

@main
struct VMTally: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtally",
        abstract: "Counts and times every VM exit, for the host and for the guest.",
        subcommands: []
    )
}
