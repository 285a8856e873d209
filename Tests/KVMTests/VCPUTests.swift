import Glibc
import Testing

@testable import KVM

@Suite(.enabled(if: noKVM == nil, "no /dev/kvm: \(noKVM ?? "")"))
struct VCPUTests {
    @Test func portAccessesExitWithTheirWidthAndData() throws {
        // mov dx, 0x3f8; mov al, 'A'; out dx, al; in ax, dx; hlt
        let guest = try Guest(code: [0xBA, 0xF8, 0x03, 0xB0, 0x41, 0xEE, 0xED, 0xF4])
        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        let out = guest.vcpu.runPage.pointee.io
        #expect(out.direction == UInt8(KVM_EXIT_IO_OUT) && out.size == 1 && out.port == 0x3F8 && out.count == 1)
        let data = UnsafeMutableRawPointer(guest.vcpu.runPage) + Int(out.data_offset)
        #expect(data.load(as: UInt8.self) == 0x41)

        #expect(try guest.exit() == UInt32(KVM_EXIT_IO))
        let input = guest.vcpu.runPage.pointee.io
        #expect(input.direction == UInt8(KVM_EXIT_IO_IN) && input.size == 2)
        (UnsafeMutableRawPointer(guest.vcpu.runPage) + Int(input.data_offset)).storeBytes(of: 0x1234, as: UInt16.self)
        try guest.runToHalt()
        #expect(try guest.vcpu.registers().rax & 0xFFFF == 0x1234)
    }
}
