// SPDX-License-Identifier: Apache-2.0
import ExitStats
import KVM
import Synchronization

/// When a guest's boot is over (docs/boot-protocol.md).
public struct BootMarkerConfiguration: Sendable {
    /// The boot ends with the first byte of this on the console; empty: with the write to port 0xF5 alone.
    public var text: [UInt8] = []
    /// The run ends there too.
    public var endsRun = false

    public init() {}
}

/// What had been counted when the boot was over, the exit that said so included.
public struct BootReading: Sendable {
    /// Since just before the first KVM_RUN, ns.
    public let nanoseconds: UInt64
    /// Userspace exits of all vCPUs.
    public let userspace: ExitCounts
    /// What KVM counted.
    public let kernel: KernelCounters
    /// VM exits by reason, where the kernel counts them.
    public let hardware: ExitCounts?
}

/// Notes the counters at the moment when the guest says that its boot is over. The first one counts.
final class BootMarker: Sendable {
    /// What the counters were, ns of the monotonic clock with them.
    struct Note: Sendable {
        let nanoseconds: UInt64
        let tallies: [ExitCounts]
        let kernel: KernelCounters
    }

    private struct State {
        var take: (@Sendable () -> Note)?
        var note: Note?
        /// Notes at bytes that may begin the text, with how many of its bytes have been seen.
        var candidates: [(seen: Int, note: Note)] = []
    }

    let configuration: BootMarkerConfiguration
    private let recorder: RunRecorder?
    private let end: @Sendable () -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - recorder: gets every mark, not the first alone.
    ///   - end: ends the run.
    init(
        _ configuration: BootMarkerConfiguration = .init(), recorder: RunRecorder? = nil,
        end: @escaping @Sendable () -> Void = {}
    ) {
        self.configuration = configuration
        self.recorder = recorder
        self.end = end
    }

    var watchesConsole: Bool { !configuration.text.isEmpty || recorder?.watchesConsole ?? false }

    /// Tells how the counters are read. Before the machine runs.
    func attach(_ take: @escaping @Sendable () -> Note) {
        state.withLock { $0.take = take }
    }

    var note: Note? { state.withLock { $0.note } }

    /// Port 0xF5 was written: the boot is over, unless a text is to say so.
    ///
    /// - Returns: the wish that the run end, if it is to.
    func reached() -> GuestRequest? {
        recorder?.mark("port 0xF5")
        guard configuration.text.isEmpty else { return nil }
        state.withLock { state in
            if state.note == nil {
                state.note = state.take?()
            }
        }
        return configuration.endsRun ? .marker : nil
    }

    /// Takes bytes on their way to the console.
    func watch(_ bytes: some Sequence<UInt8>) {
        recorder?.watch(bytes)
        let text = configuration.text
        guard let first = text.first else { return }
        let found = state.withLock { state in
            guard state.note == nil else { return false }
            for byte in bytes {
                state.candidates = state.candidates.compactMap {
                    text[$0.seen] == byte ? ($0.seen + 1, $0.note) : nil
                }
                if byte == first, let note = state.take?() {
                    state.candidates.append((1, note))
                }
                if let oldest = state.candidates.first, oldest.seen == text.count {
                    state.note = oldest.note
                    state.candidates = []
                    return true
                }
            }
            return false
        }
        if found, configuration.endsRun {
            end()
        }
    }
}

/// Port 0xF5: a write of whatever value and width says that the boot is over. Reads as all ones.
final class BootMarkerPort: Device {
    static let port: UInt16 = ExitPort.port + 1

    private let marker: BootMarker

    init(_ marker: BootMarker) {
        self.marker = marker
    }

    func write(_ offset: UInt32, _ data: UnsafeRawBufferPointer) -> GuestRequest? {
        marker.reached()
    }
}
