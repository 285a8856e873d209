// SPDX-License-Identifier: Apache-2.0
import Foundation
import Linux
import Synchronization
import TestSupport
import Testing

@testable import Machine

/// Guests and readers that try to keep a thread of the VMM: the run ends at its limit all the same.
@Suite("Nothing holds up the VMM", .enabled(if: Host.noKVM == nil, "no /dev/kvm: \(Host.noKVM ?? "")"))
struct HoldUpTests {
    /// A driver that never lets its device rest.
    struct Attack: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let devices: @Sendable (TemporaryFolder) throws -> DeviceConfiguration
        let guest: MultibootGuest

        init(
            _ name: String, _ devices: @escaping @Sendable (TemporaryFolder) throws -> DeviceConfiguration,
            _ build: (inout MultibootGuest) -> Void
        ) {
            testDescription = name
            self.devices = devices
            var guest = MultibootGuest()
            build(&guest)
            self.guest = guest
        }
    }

    /// One virtio device and no UART.
    private static func only(_ set: @escaping @Sendable (inout DeviceConfiguration) -> Void)
        -> @Sendable (TemporaryFolder) throws -> DeviceConfiguration
    {
        { _ in
            var devices = DeviceConfiguration()
            devices.console = .none
            set(&devices)
            return devices
        }
    }

    /// A sparse disk of 4 GiB.
    private static func disk(_ folder: TemporaryFolder) throws -> DeviceConfiguration {
        let path = try folder.file("disk", [])
        try #require(truncate(path, 4 << 30) == 0)
        var devices = DeviceConfiguration()
        devices.console = .none
        devices.disks = [.init(path: path, isReadOnly: false)]
        return devices
    }

    /// A chain of 64 descriptors of 32 MiB; the last two requests of the ring are that chain as well.
    private static func longChain(_ guest: inout MultibootGuest, queue: UInt32, flags: UInt16) {
        for index in 0..<64 as Range<UInt32> {
            guest.descriptor(
                queue, index, address: 0x80_0000, length: 32 << 20, flags: flags | (index < 63 ? 1 : 0),
                next: UInt16(index + 1))
        }
    }

    /// A ring that fills up as fast as it is worked off: one chain more, over and over, and a notification each time.
    private static func refill(_ guest: inout MultibootGuest, queue: UInt32) {
        guest.forever { guest in
            for _ in 0..<16 { guest.increment(half: MultibootGuest.Ring.available(queue) + 2) }
            guest.notify(0, queue)
        }
    }

    /// A block request: header, 64 pieces of 32 MiB, status.
    private static func bigRequest(_ guest: inout MultibootGuest, type: UInt32) {
        let header = MultibootGuest.Ring.buffers
        guest.store(type, at: header)
        guest.store(0, at: header + 8)
        guest.store(0, at: header + 12)
        guest.descriptor(0, 0, address: header, length: 16, flags: 1, next: 1)
        let data: UInt16 = type == 0 ? 2 : 0
        for index in 1..<63 as Range<UInt32> {
            guest.descriptor(
                0, index, address: 0x80_0000, length: 32 << 20, flags: data | 1, next: UInt16(index + 1))
        }
        guest.descriptor(0, 63, address: header + 0x100, length: 1, flags: 2)
    }

    static let attacks: [Attack] = [
        Attack("console: 64 chains of 2 GiB in one notification", only { $0.console = .virtio }) { guest in
            guest.start(0, queues: 2)
            longChain(&guest, queue: 1, flags: 0)
            guest.offer(1, chains: 64)
            guest.notify(0, 1)
            guest.sleep()
        },
        Attack("console: a ring that refills itself", only { $0.console = .virtio }) { guest in
            guest.start(0, queues: 2)
            guest.descriptor(1, 0, address: 0x80_0000, length: 4096)
            guest.offer(1, chains: 1)
            refill(&guest, queue: 1)
        },
        Attack("console: empty chains without end", only { $0.console = .virtio }) { guest in
            guest.start(0, queues: 2)
            guest.descriptor(1, 0, address: 0x80_0000, length: 0)
            guest.offer(1, chains: 1)
            refill(&guest, queue: 1)
        },
        Attack("entropy: 64 chains of 2 GiB", only { $0.entropy = true }) { guest in
            guest.start(0, queues: 1)
            longChain(&guest, queue: 0, flags: 2)
            guest.offer(0, chains: 64)
            guest.notify(0, 0)
            guest.sleep()
        },
        Attack("entropy: a ring that refills itself", only { $0.entropy = true }) { guest in
            guest.start(0, queues: 1)
            guest.descriptor(0, 0, address: 0x80_0000, length: 4096, flags: 2)
            guest.offer(0, chains: 1)
            refill(&guest, queue: 0)
        },
        Attack("disk: 64 reads of 2 GiB", disk) { guest in
            guest.start(0, queues: 1)
            bigRequest(&guest, type: 0)
            guest.offer(0, chains: 64)
            guest.notify(0, 0)
            guest.sleep()
        },
        Attack("disk: a ring of reads that refills itself, and registers read meanwhile", disk) { guest in
            guest.start(0, queues: 1)
            bigRequest(&guest, type: 0)
            guest.offer(0, chains: 1)
            guest.forever { guest in
                guest.increment(half: MultibootGuest.Ring.available(0) + 2)
                guest.notify(0, 0)
                guest.load(MultibootGuest.device(0) + 0x70)
            }
        },
        Attack("disk: resets in the middle of a request", disk) { guest in
            guest.forever { guest in
                guest.start(0, queues: 1)
                bigRequest(&guest, type: 0)
                guest.offer(0, chains: 1)
                guest.notify(0, 0)
            }
        },
        Attack("console: rules broken again and again", only { $0.console = .virtio }) { guest in
            guest.forever { guest in
                guest.start(0, queues: 2)
                guest.descriptor(1, 0, address: 0xFFFF_0000, length: 1)
                guest.offer(1, chains: 1)
                guest.notify(0, 1)
            }
        },
        Attack("serial port: a flood", only { $0.console = .serial }) { guest in
            guest.bytes([0xBA, 0xF8, 0x03, 0, 0])  // mov $0x3F8, %edx
            guest.forever { $0.bytes([0xB0, 0x0A, 0xEE]) }  // mov $10, %al; out %al, %dx
        },
    ]

    private static let limit = 500

    /// A thread of its own: Swift Testing's wait for each other.
    private static func run(
        _ attack: Attack, events: Bool, serial: SerialOutput.Target = .none, limit: Int = limit,
        report: @escaping @Sendable (String) -> Void = { _ in }
    ) throws -> (result: RunResult, late: Double) {
        let folder = try TemporaryFolder()
        var configuration = MachineConfiguration()
        configuration.memoryMiB = 64
        configuration.liveCPUID = .off
        configuration.serial = serial
        configuration.timeoutMilliseconds = limit
        configuration.devices = try attack.devices(folder)
        configuration.devices.eventDescriptors = events
        configuration.devices.report = report
        let machine = try attack.guest.image.withUnsafeBytes {
            try Machine(configuration, .multiboot($0, commandLine: ""))
        }
        let start = monotonicNanoseconds()
        let result = try machine.run()
        return (result, Double(monotonicNanoseconds() - start) / 1e9 - Double(limit) / 1000)
    }

    /// How late the run ended is printed, for docs/reliability.md; that it ended is what is judged.
    @Test(.timeLimit(.minutes(60)), arguments: attacks, [true, false])
    func aGuestThatTries(attack: Attack, events: Bool) throws {
        let (result, late) = try Self.run(attack, events: events)
        #expect(result.end == .timeout, "\(result.end)")
        print("held up by \(late.formatted(.number.precision(.fractionLength(3)))) s: \(attack.testDescription)")
    }

    /// The same with a reader that never reads.
    @Test(.timeLimit(.minutes(60)), arguments: [0, 1, 2, 9], [true, false])
    func aReaderThatNeverReads(attack: Int, events: Bool) throws {
        let pipe = try SerialOutputTests.Pipe()
        pipe.fill()
        let (result, _) = try Self.run(Self.attacks[attack], events: events, serial: .descriptor(pipe.writing))
        #expect(result.end == .timeout, "\(result.end)")
    }

    /// What the guest can make us say is said a few times, and counted.
    @Test func messagesAreLimited() throws {
        // On a busy machine a guest gets to its ninth message later.
        for limit in [Self.limit, 10 * Self.limit, 100 * Self.limit] {
            let messages = Mutex(0)
            let (result, _) = try Self.run(Self.attacks[8], events: true, limit: limit) { _ in
                messages.withLock { $0 += 1 }
            }
            let said = messages.withLock { $0 }
            #expect(said <= GuestMessages.limit)
            guard result.withheldMessages > 0 else { continue }
            #expect(said == GuestMessages.limit)
            return
        }
        Issue.record("the guest never came to its ninth message")
    }

    /// A disk that does not answer: its thread is left alone, and whoever waits for its device's lock is let go.
    @Test(.timeLimit(.minutes(60))) func aDiskThatStalls() throws {
        final class Stalled: VirtioBackend {
            static let deviceID: UInt32 = 2
            static let name = "stalled"
            let features: UInt64 = 0
            let queueSizes: [UInt16] = [8]
            let configuration: [UInt8] = []
            let mayBlock = true
            let hold: EventDescriptor
            let stalls: SerialOutputTests.Flag

            init(_ hold: EventDescriptor, _ stalls: SerialOutputTests.Flag) {
                self.hold = hold
                self.stalls = stalls
            }

            func process(_ queue: inout SplitQueue, _ memory: GuestMemory) throws(QueueError) -> QueueProgress {
                stalls.set()
                _ = hold.wait(milliseconds: 0)
                return QueueProgress()
            }
        }
        let hold = try EventDescriptor()
        let wake = try EventDescriptor()
        let over = SerialOutputTests.Flag()
        let stalls = SerialOutputTests.Flag()
        let memory = try GuestMemory(mebibytes: 1)
        let device = VirtioMMIO(
            Stalled(hold, stalls), memory: memory, interrupt: {}, report: { _ in }, isOver: { over.isSet },
            handOver: { _ in wake.signal() })
        func set(_ value: UInt32, _ register: UInt32) {
            withUnsafeBytes(of: value) { _ = device.write(register, $0) }
        }
        for (register, value) in [
            (0x24, 1), (0x20, 1), (0x70, 11), (0x38, 8), (0x80, 0x1000), (0x90, 0x2000), (0xA0, 0x3000), (0x44, 1),
            (0x70, 15),
        ] as [(UInt32, UInt32)] {
            set(value, register)
        }
        let loop = try EventLoop()
        try loop.add(wake.rawValue) { _ in _ = device.work(0) }
        let thread = try Linux.Thread(name: "disk") { loop.run() }
        set(0, 0x50)
        let released = SerialOutputTests.Flag()
        // Waits for the lock, as the thread of a vCPU that reads the device's status.
        let vcpu = try Linux.Thread(name: "vcpu") {
            while true {
                var status: UInt32 = 0
                withUnsafeMutableBytes(of: &status) { device.read(0x70, $0) }
                if over.isSet { break }
            }
            released.set()
        }
        while !stalls.isSet { usleep(1000) }
        over.set()
        vcpu.join()
        #expect(released.isSet)
        MachineDevices.stop([(loop, thread)])
        hold.signal()
        #expect(loop.hasStopped(by: monotonicNanoseconds() + 60_000_000_000))
    }
}
