import ExitStats
import GuestCode
import KVM
import Linux

/// Why a machine could not be built. What a guest does once it runs is no error of ours: see ``RunEnd``.
public enum MachineError: Error, CustomStringConvertible, Sendable {
    /// A call of the KVM API failed.
    case kvm(KVMError)
    /// Guest RAM: size or mapping.
    case memory(String)
    /// The guest image is refused.
    case image(ImageError)
    /// An option makes no sense on this host.
    case configuration(String)
    /// A system call other than KVM's failed.
    case system(SystemError)
    case tally(TallyMemoryError)

    public var description: String {
        switch self {
        case .kvm(let error): "\(error)"
        case .memory(let text): "guest memory: \(text)"
        case .image(let error): "guest image: \(error)"
        case .configuration(let text): text
        case .system(let error): "\(error)"
        case .tally(let error): "\(error)"
        }
    }
}

extension MachineError {
    static func system(call: String, errno: Int32) -> MachineError { .system(SystemError(call, errno: errno)) }
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
