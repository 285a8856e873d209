// SPDX-License-Identifier: Apache-2.0
import Testing

/// The machine code of the exit loop, of the binary that users get.
@Suite("Exit path, release build", .enabled(if: ReleaseBinary.isThere, "make test builds the release binary first"))
struct ExitPathTests {
    private let loop = "$s7Machine8VCPULoopV3runyyF"
    private let loopByPlace = "$s7Machine8VCPULoopV3runyyAA12PlaceTalliesV7WritersVF"

    /// What the loop calls: what is rare and therefore out of line.
    private let rare = [
        "5TallyC6MemoryV5claim",  // the first exit of a reason from 256 up
        "8PlatformC10uartAccess",
        "8PlatformC7allOnes",
        "9RareExitsV6handle", "9RareExitsV6reason",
    ]

    @Test("no lock, no reference counting, no allocation, no call but of the rare cases")
    func loopIsClean() throws {
        let listing = try ReleaseBinary.listing(loop)
        #expect(listing.instructions.count > 50, "no machine code of \(loop) in \(ReleaseBinary.path)")
        #expect(listing.violations(allowedCalls: rare) == [])
    }

    @Test("the same of the loop that also tallies by place, which claims one at its first exit")
    func loopByPlaceIsClean() throws {
        let listing = try ReleaseBinary.listing(loopByPlace)
        #expect(listing.instructions.count > 50, "no machine code of \(loopByPlace) in \(ReleaseBinary.path)")
        #expect(listing.violations(allowedCalls: rare + ["10PlaceTallyC6MemoryV4find"]) == [])
    }

    @Test("an exit that no device claims makes no call but KVM_RUN")
    func unclaimedExitCallsNothing() throws {
        let length = try #require(try ReleaseBinary.listing(loop).shortestCallFreeLoop())
        // About 65 when this was written. Twice that is no longer the loop that was measured.
        #expect((20...130).contains(length), "\(length) instructions")
    }

    /// A return that the processor does not foresee costs more than all the accounting: docs/performance.md.
    @Test("KVM_RUN is one system call in the loop itself")
    func runIsInline() throws {
        for symbol in [loop, loopByPlace] {
            #expect(try ReleaseBinary.listing(symbol).instructions.count(where: \.isSystemCall) == 1, "in \(symbol)")
        }
    }

    @Test(
        "no reference counting and no allocation on the way to a device, nor in the table that leads there",
        arguments: [
            "7Machine8PlatformC10uartAccess", "7Machine8PlatformC17claimedPortAccess",
            "7Machine8PlatformC19claimedMemoryAccess",
        ])
    func claimedExitCountsNoReference(part: String) throws {
        let functions = try ReleaseBinary.functions(containing: part)
        #expect(!functions.isEmpty)
        for function in functions {
            let calls = try ReleaseBinary.listing(function).instructions.compactMap(\.targetSymbol)
            let runtime = calls.filter { $0.hasPrefix("swift_") || $0.hasPrefix("malloc") || $0.contains("WOe") }
            #expect(runtime == [], "in \(function)")
        }
    }

    @Test("a byte to the UART: two locks taken, none contended, and the output's buffer")
    func uartByteIsShort() throws {
        let access = try ReleaseBinary.functions(containing: "7Machine8PlatformC10uartAccess")
        let calls = try access.flatMap { try ReleaseBinary.listing($0).instructions.filter(\.isCall) }
        let outside = calls.compactMap(\.targetSymbol).filter { !access.contains($0) }
        // gettid, once a thread; the mutex's slow path; the buffer; the ways that a byte seldom takes.
        let known = ["syscall", "12_MutexHandle", "12SerialOutputC4send", "9UART16550C5write", "9UART16550C7setLine"]
        #expect(outside.allSatisfy { call in known.contains { call.contains($0) } }, "\(outside)")
        #expect(calls.count == access.count - 1 + outside.count, "a computed call")
    }
}
