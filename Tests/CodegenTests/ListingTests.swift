// SPDX-License-Identifier: Apache-2.0
import Testing

/// The scanner finds what it is there to find.
@Suite("Listing scanner")
struct ListingTests {
    /// A loop as clean as ours: one system call, and a rare call on the side.
    private let clean = """

        build/vmtally:     file format elf64-x86-64

        0000000000001000 <loop>:
            1000:\tpush   %rbp
            1001:\tsyscall
            1006:\trdtsc
            1008:\tincq   0x40(%r14,%r15,1)
            100d:\tcmp    $0x2,%r12d        # imm = 0x2
            1011:\tje     1001 <loop+0x1>
            1013:\tcall   6000 <rare>
            1018:\txchg   %ax,%ax
            101a:\tjmp    1001 <loop+0x1>
        """

    private func violations(_ line: String) -> [String] {
        Listing(symbol: "loop", text: clean + "\n    101c:\t" + line).violations(allowedCalls: ["rare"])
    }

    @Test("a clean loop passes")
    func passes() {
        let listing = Listing(symbol: "loop", text: clean)
        #expect(listing.instructions.count == 9)
        #expect(listing.violations(allowedCalls: ["rare"]) == [])
        #expect(listing.shortestCallFreeLoop() == 4)
    }

    @Test(
        "what must not be there is found",
        arguments: [
            "lock incq 0x8(%rax)", "lock", "lock cmpxchg %edi,0x0(%r13)", "xchg   %rax,(%rbx)", "xchgq\t%rax, 8(%rbx)",
            "call   7000 <swift_retain>", "callq\t0x7000 <swift_release>", "call   7000 <swift_beginAccess>",
            "call   7000 <swift_allocObject>", "call   7000 <malloc>", "call   7000 <swift_once>",
            "jmp    7000 <swift_release>", "jne    7000 <other+0x10>", "call   *0x18(%rax)", "jmpq\t*%rax",
        ])
    func finds(line: String) {
        #expect(violations(line).count == 1)
    }

    @Test(
        "what may be there is not",
        arguments: ["incq (%rax)", "xchg   %ax,%ax", "cmpxchg %rdx,(%rax)", "ret", "call   6000 <rare>"])
    func ignores(line: String) {
        #expect(violations(line) == [])
    }

    @Test("a loop whose every path calls something has no call-free path")
    func callOnEveryPath() {
        let text = clean.replacing("1008:\tincq   0x40(%r14,%r15,1)", with: "1008:\tcall   6000 <rare>")
        #expect(Listing(symbol: "loop", text: text).shortestCallFreeLoop() == nil)
    }
}
