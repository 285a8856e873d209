// SPDX-License-Identifier: Apache-2.0

#if canImport(Testing)
import Dispatch
import Foundation
import Testing

/// Runs tests that block in threads of their own: Swift's concurrency has no more threads than there are processors, and
/// tests that wait in them for a guest or a process hold up all others, their time limits too.
public struct OwnThread: SuiteTrait, TestTrait, TestScoping {
    public let isRecursive = true

    public func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        guard testCase != nil else { return try await function() }
        await Slots.shared.take()
        do {
            try await withTaskExecutorPreference(Executor()) { try await function() }
        } catch {
            await Slots.shared.give()
            throw error
        }
        await Slots.shared.give()
    }

    /// One thread, however long its job blocks.
    private final class Executor: TaskExecutor {
        private let queue = DispatchQueue(label: "test")

        func enqueue(_ job: consuming ExecutorJob) {
            let job = UnownedJob(job)
            queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
        }
    }

    /// One more of them at a time than there are processors: many of them wait most of their time.
    private actor Slots {
        static let shared = Slots()

        private var free = max(2, ProcessInfo.processInfo.activeProcessorCount) + 1
        private var waiting: [CheckedContinuation<Void, Never>] = []

        func take() async {
            if free > 0 {
                free -= 1
            } else {
                await withCheckedContinuation { waiting.append($0) }
            }
        }

        func give() {
            if waiting.isEmpty {
                free += 1
            } else {
                waiting.removeFirst().resume()
            }
        }
    }
}

extension Trait where Self == OwnThread {
    /// The tests block: each gets a thread of its own.
    public static var ownThread: OwnThread { OwnThread() }
}
#endif
