// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import KVM

/// `vmtally allow`
struct AllowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "allow",
        abstract: "Lets the guests of a process read their VM exits, from the loadable module.",
        discussion: """
            The module (kernel-module/) counts the VM exits of the VMs that are allowed, whatever VMM they run under, and \
            answers CPUID leaf 0x4FFFFFFF for their guests; every other VM gets what it always got. What is allowed \
            already goes on. Timing data can tell a guest about its neighbours: allow those whose owner asked for it.
            """
    )

    @Argument(help: "A process that has a VM, all, or none: then nothing is counted any more.")
    var whom: Whom?

    @Option(
        help: ArgumentHelp(
            "VMs of processes of this name, or with this -name, --name or --id; also those that start later.",
            valueName: "name"))
    var name: String?

    enum Whom: ExpressibleByArgument, Equatable {
        case process(pid_t)
        case all, none

        init?(argument: String) {
            switch argument {
            case "all": self = .all
            case "none": self = .none
            default:
                guard let pid = pid_t(argument), pid > 0 else { return nil }
                self = .process(pid)
            }
        }
    }

    func validate() throws {
        guard (whom == nil) != (name == nil) else {
            throw ValidationError("Name one: a process, all, none, or --name NAME.")
        }
    }

    func run() throws {
        do throws(KVMError) {
            let module = try ExitModule()
            if let name {
                try module.allow(name: name)
            } else {
                switch whom {
                case .process(let pid): try module.allow(process: pid)
                case .all: try module.allowAll()
                case .some(.none), nil: try module.allowNone()
                }
            }
            try report(try module.list())
        } catch {
            throw Failure(error.description)
        }
    }
}

/// `vmtally disallow`
struct DisallowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disallow",
        abstract: "Takes `vmtally allow` back for one process or name.",
        discussion: """
            The guests get what they got before, and their counters are gone: should they be allowed again, counting \
            starts anew. Where all are allowed, this process is not.
            """
    )

    @Argument(help: "A process.")
    var process: Int32?

    @Option(help: ArgumentHelp("What `vmtally allow --name` was given.", valueName: "name"))
    var name: String?

    func validate() throws {
        guard (process == nil) != (name == nil) else {
            throw ValidationError("Name one: a process, or --name NAME.")
        }
    }

    func run() throws {
        do throws(KVMError) {
            let module = try ExitModule()
            if let name {
                try module.disallow(name: name)
            } else if let process {
                try module.disallow(process: process)
            }
            try report(try module.list())
        } catch {
            throw Failure(error.description)
        }
    }
}

/// What is allowed now.
private func report(_ list: ExitModuleList) throws(KVMError) {
    for line in lines(list) {
        print(line)
    }
}

/// The rules, and the VMs that they have found.
func lines(_ list: ExitModuleList) -> [String] {
    guard !list.rules.isEmpty else { return ["No VM is allowed."] }
    let vms = list.vms.map { vm in
        "VM \(vm.id): process \(vm.pid) (\(vm.name)), \(vm.vcpus) vCPU\(vm.vcpus == 1 ? "" : "s"), \(vm.exits) VM exits"
            + (vm.joinedRunning ? " since it was allowed" : "")
    }
    return list.rules + (vms.isEmpty ? ["No such VM runs."] : vms)
}
