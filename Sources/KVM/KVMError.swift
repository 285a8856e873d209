// SPDX-License-Identifier: Apache-2.0
@_exported import CLinuxKVM
import CLinux

/// A system call that failed: which, with what, and what to do about it.
public struct KVMError: Error, Equatable, CustomStringConvertible, Sendable {
    /// What was called: an ioctl by the kernel's name (`KVM_CREATE_VM`), else the system call and its object.
    public let call: String
    /// The kernel's error number, positive.
    public let errno: Int32
    /// What the user can do about it, where we know: whole sentences.
    public var remedy: String?

    /// A call that failed, with `errno` as the kernel gave it.
    public init(call: String, errno: Int32, remedy: String? = nil) {
        self.call = call
        self.errno = errno
        self.remedy = remedy
    }

    /// The symbol of `errno`, as `EACCES`; its number where the C library has no symbol for it.
    public var symbol: String {
        vmtally_error_name(errno).map { String(cString: $0) } ?? "errno \(errno)"
    }

    /// `KVM_CREATE_VM: Permission denied (EACCES). <remedy>`
    public var description: String {
        let text = vmtally_error_text(errno).map { String(cString: $0) } ?? "Unknown error"
        return "\(call): \(text) (\(symbol))" + (remedy.map { ". \($0)" } ?? "")
    }
}
