// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc
import Linux

/// ioctls. Each returns what the kernel returned, zero or above, and throws everything else under `name`.
///
/// EINTR is repeated (a signal before the work began; KVM_CREATE_VM and the vCPU mutex give it), EAGAIN as well, both with
/// a limit. KVM_RUN, to which both mean something else, does not come through here.
extension FileDescriptor {
    @discardableResult
    func control(_ name: String, _ request: UInt, _ argument: UInt = 0) throws(KVMError) -> Int32 {
        var result = vmtally_ioctl(rawValue, request, argument)
        var attemptsLeft = 1000
        while (result == -EINTR || result == -EAGAIN) && attemptsLeft > 0 {
            attemptsLeft -= 1
            sched_yield()
            result = vmtally_ioctl(rawValue, request, argument)
        }
        if result < 0 { throw KVMError(call: name, errno: -result) }
        return result
    }

    @discardableResult
    func control(_ name: String, _ request: UInt, _ argument: UnsafeMutableRawPointer) throws(KVMError) -> Int32 {
        try control(name, request, UInt(bitPattern: argument))
    }

    /// For requests that fill or take one fixed structure.
    @discardableResult
    func control<T>(
        _ name: String, _ request: UInt, with value: inout T
    ) throws(KVMError) -> Int32 {
        try withUnsafeMutablePointer(to: &value) { (pointer) throws(KVMError) in
            try control(name, request, UnsafeMutableRawPointer(pointer))
        }
    }

    /// For requests that fill a structure: `value` is what it holds before.
    func read<T>(_ name: String, _ request: UInt, into value: T) throws(KVMError) -> T {
        var value = value
        try control(name, request, with: &value)
        return value
    }
}

/// Zeroed memory for a structure with a flexible array at its end, which Swift does not import.
struct FlexibleBuffer: ~Copyable {
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(byteCount: Int) {
        self.byteCount = byteCount
        base = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 16)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    /// Room for `Header` and then `count` of `Element`; in KVM's ABI the one's size suits the other's alignment.
    init<Header, Element>(header: Header.Type, element: Element.Type, count: Int) {
        self.init(byteCount: MemoryLayout<Header>.size + count * MemoryLayout<Element>.stride)
    }

    deinit {
        base.deallocate()
    }

    func header<Header>(_ type: Header.Type) -> UnsafeMutablePointer<Header> {
        base.assumingMemoryBound(to: type)
    }

    func elements<Header, Element>(after header: Header.Type, _ type: Element.Type) -> UnsafeMutablePointer<Element> {
        (base + MemoryLayout<Header>.size).assumingMemoryBound(to: type)
    }
}
