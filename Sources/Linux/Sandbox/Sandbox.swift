// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Synchronization

/// Confines threads for good to what they still have to do, once everything is opened and set up.
///
/// A call that a thread's filter does not allow ends the process with status 128 + SIGSYS and a message that names the
/// thread's role and the call.
package enum Sandbox {
    /// What threads are there for.
    package enum Role: UInt16, CaseIterable, Sendable {
        case main
        case vCPU
        case devices
        /// Reads other VMs' counters.
        case observer

        package var name: String {
            switch self {
            case .main: "main"
            case .vCPU: "vCPU"
            case .devices: "devices"
            case .observer: "observer"
            }
        }
    }

    /// Whether this process may no longer open, make or remove files.
    package static var isConfined: Bool { confined.load(ordering: .relaxed) }
    private static let confined = Atomic(false)

    /// Before the first thread is confined: how the process tells of a forbidden call, `advice` being the last line of it.
    package static func prepare(advice: String) throws(SystemError) {
        // Kept for ever: the handler may run at any time. Machine by machine, a few bytes.
        let names = UnsafeMutablePointer<UnsafePointer<CChar>?>.allocate(capacity: Role.allCases.count)
        for role in Role.allCases {
            names[Int(role.rawValue)] = UnsafePointer(strdup(role.name))
        }
        try check("sigaction", vmtally_report_forbidden_calls(names, UInt32(Role.allCases.count), strdup(advice)))
        vmtally_settle_library()
    }

    /// Takes from the calling thread, and from those that it starts from now on, files, networks and capabilities.
    ///
    /// - Returns: the kernel's Landlock ABI, 0 without Landlock: then the filter alone keeps a thread from files.
    @discardableResult
    package static func giveUpPrivileges() throws(SystemError) -> Int {
        confined.store(true, ordering: .relaxed)
        try check("PR_SET_NO_NEW_PRIVS", vmtally_no_new_privileges())
        let abi = vmtally_landlock()
        try check("landlock_restrict_self", min(abi, 0))
        try check("capset", vmtally_drop_capabilities())
        return Int(abi)
    }

    /// From now on the calling thread makes the filter's calls and no other.
    package static func enter(_ role: Role, _ filter: SystemCallFilter) throws(SystemError) {
        if role == .observer { confined.store(true, ordering: .relaxed) }
        try check("PR_SET_NO_NEW_PRIVS", vmtally_no_new_privileges())
        vmtally_unblock_forbidden_calls()
        let program = filter.program(role: role.rawValue)
        try check("seccomp", vmtally_filter_calls(program, UInt16(program.count)))
    }

    /// Closes what was open when the program began, but for standard input, output and error.
    package static func closeInherited() {
        _ = vmtally_close_inherited()
    }

    private static func check(_ call: String, _ result: Int32) throws(SystemError) {
        guard result >= 0 else { throw SystemError(call, errno: -result) }
    }
}
