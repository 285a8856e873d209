// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVM
import Linux
import Synchronization
import Testing

@testable import Machine

/// The trial of breakpoints, which runs beside a machine that is being built and may fail meanwhile.
@Suite("The trial thread", .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct BreakpointTrialTests {
    /// The outcome is told while the vCPU's run page is still there, for whoever stops the trial writes to it: also where
    /// the trial fails.
    @Test(arguments: [false, true]) func theRunPageOutlivesTheOutcome(fails: Bool) throws {
        let system = try System()
        let page = Mutex<UInt>(0)
        var told = 0
        BreakpointSupport.tryOut(system, try system.supportedCPUID()) { vcpu in
            page.withLock { $0 = UInt(bitPattern: vcpu.runPage) }
            // From here on each ioctl fails.
            let null = open("/dev/null", O_RDONLY)
            if fails { dup2(null, vcpu.fd.rawValue) }
            close(null)
        } outcome: { result in
            told += 1
            var resident: UInt8 = 0
            let address = UnsafeMutableRawPointer(bitPattern: page.withLock { $0 })
            #expect(mincore(address, 4096, &resident) == 0, "its run page is gone")
            if case .failure(.kvm(let error)) = result {
                #expect(fails && error.errno == ENOTTY, "\(error)")
            } else {
                #expect(!fails)
            }
        }
        #expect(told == 1)
    }

    /// What a machine whose image is no good does: it drops the trial wherever that is.
    @Test(.timeLimit(.minutes(60))) func dropped() throws {
        let system = try System()
        let table = try system.supportedCPUID()
        for round in 0..<1000 {
            let trial = try BreakpointTrial(system, table)
            if round % 4 != 0 { usleep(UInt32(round % 40) * 100) }
            withExtendedLifetime(trial) {}
        }
    }

    /// In a process of its own, for the one that is begun ahead is the process's.
    @Test("begun ahead, it is the first machine's, and says the same") func ahead() async {
        await #expect(processExitsWith: .success) {
            BreakpointSupport.tryAhead()
            BreakpointSupport.tryAhead()
            let system = try System()
            let table = try system.supportedCPUID()
            let results = try (0..<3).map { _ in try BreakpointTrial.begun(system, table).result() }
            exit(results.allSatisfy { $0 == results[0] } ? 0 : 1)
        }
    }

    /// Enter, leave and the end of the run, each from its own thread, ten thousand times: the page goes right after leave.
    @Test(.timeLimit(.minutes(60))) func kicksReachNoPageThatIsGone() throws {
        try KickSignal.install()
        for _ in 0..<10_000 {
            let control = try RunControl(cpus: 1)
            let thread = try Thread(name: "vcpu") {
                let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                guard let page, page != MAP_FAILED else { return }
                control.enter(vcpu: 0, runPage: page.assumingMemoryBound(to: kvm_run.self))
                control.leave(vcpu: 0)
                munmap(page, 4096)
            }
            control.finish(.timeout)
            thread.join()
        }
    }
}
