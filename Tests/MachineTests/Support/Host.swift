// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVM
@testable import Machine

/// What this host has, so that a test which needs more can say so and be skipped.
enum Host {
    /// Why the tests that need /dev/kvm cannot run here; nil where they can.
    ///
    /// On a continuous-integration machine a missing KVM is a failure, not a reason to skip: there the tests run and
    /// say so.
    static let noKVM: String? = {
        do throws(KVMError) {
            _ = try System()
            return nil
        } catch {
            return getenv("CI") == nil ? error.description : nil
        }
    }()

    /// What breakpoints can do here, tried once for all tests.
    static let breakpoints: BreakpointSupport = {
        do {
            return try BreakpointSupport.probe(try System())
        } catch {
            return BreakpointSupport()
        }
    }()

    /// Ring 0 does not run on the processor but in KVM's instruction emulator.
    static let emulatesRing0 = access("/sys/module/kvm_pvm", F_OK) == 0

    /// RAM.
    static let memoryMiB = Int((UInt64(sysconf(Int32(_SC_PHYS_PAGES))) * UInt64(sysconf(Int32(_SC_PAGESIZE)))) >> 20)

    /// Whether KVM offers something; true where that cannot be told, so that the test itself says why.
    static func has(_ capability: Capability) -> Bool {
        do throws(KVMError) {
            return try System().check(capability) > 0
        } catch {
            return true
        }
    }
}
