// SPDX-License-Identifier: Apache-2.0
import ExitStats
import Glibc
import GuestCode
import KVM
import Linux

/// Why a machine could not be built. What a guest does once it runs is no error of ours: see ``RunEnd``.
public enum MachineError: Error, CustomStringConvertible, Sendable {
    /// A call of the KVM API failed.
    case kvm(KVMError)
    /// The guest image is refused.
    case image(ImageError)
    /// What was asked for is not to be had: of this host, or with this guest.
    case refused(Refusal)
    /// A system call other than KVM's failed.
    case system(SystemError)
    case tally(TallyMemoryError)
    /// The guest's threads could not be confined.
    case sandbox(SystemError)

    public var description: String {
        switch self {
        case .kvm(let error): "\(error)"
        case .image(let error): "guest image: \(error)"
        case .refused(let refusal): "\(refusal)"
        case .system(let error): "\(error)"
        case .tally(let error): "\(error)"
        case .sandbox(let error) where [EMFILE, ENFILE].contains(error.errno):
            "the sandbox cannot be set up: \(error): raise the limit of open files (ulimit -n)"
        case .sandbox(let error): "the sandbox cannot be set up on this host: \(error)"
        }
    }
}

/// A wish that this host, or this guest, does not allow.
public struct Refusal: Error, Equatable, CustomStringConvertible, Sendable {
    /// What the wish was about.
    public enum Subject: String, Sendable {
        case memory = "guest memory"
        case vcpus = "vCPUs"
        case interruptControllers = "interrupt controllers"
        case commandLine = "the guest's command line"
        case liveCPUID = "live CPUID"
        case placesOfCode = "tally by RIP"
        case network = "network card"
        case cpuid = "the guest's CPUID"
        case devices
        case bench
    }

    public let subject: Subject
    public let cause: String
    /// What to do about it, in the imperative.
    public let remedy: String

    /// `guest memory: 0 MiB asked for, the host has 7936 MiB: give 1 to 7936 MiB`
    public var description: String { "\(subject.rawValue): \(cause): \(remedy)" }
}

extension MachineError {
    static func system(call: String, errno: Int32) -> MachineError { .system(SystemError(call, errno: errno)) }

    package static func refused(_ subject: Refusal.Subject, _ cause: String, _ remedy: String) -> MachineError {
        .refused(Refusal(subject: subject, cause: cause, remedy: remedy))
    }
}

/// Runs what throws one of the lower modules' errors, as ``MachineError``.
package func lifted<Result: ~Copyable>(_ body: () throws(KVMError) -> Result) throws(MachineError) -> Result {
    do throws(KVMError) { return try body() } catch { throw .kvm(error) }
}

package func lifted<Result>(_ body: () throws(ImageError) -> Result) throws(MachineError) -> Result {
    do throws(ImageError) { return try body() } catch { throw .image(error) }
}

package func lifted<Result: ~Copyable>(_ body: () throws(SystemError) -> Result) throws(MachineError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
}

package func lifted<Result>(_ body: () throws(TallyMemoryError) -> Result) throws(MachineError) -> Result {
    do throws(TallyMemoryError) { return try body() } catch { throw .tally(error) }
}
