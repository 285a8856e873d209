// SPDX-License-Identifier: Apache-2.0
import CLinux
import Glibc

/// A POSIX thread that runs one closure.
package struct Thread {
    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void

        init(name: String, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    private let thread: pthread_t

    /// Starts a thread; `name` shows in ps and in perf, 15 bytes of it.
    package init(name: String, _ run: @escaping @Sendable () -> Void) throws(SystemError) {
        let body = Unmanaged.passRetained(Body(name: name, run: run))
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let body = Unmanaged<Body>.fromOpaque(argument).takeRetainedValue()
                vmtally_name_thread(String(body.name.prefix(15)))
                body.run()
                return nil
            }, body.toOpaque())
        guard result == 0 else {
            body.release()
            throw SystemError("pthread_create", errno: result)
        }
        self.thread = thread
    }

    /// Waits until the closure has returned. Once.
    package func join() {
        pthread_join(thread, nil)
    }

    /// Lets the thread end on its own. Instead of ``join()``.
    package func detach() {
        pthread_detach(thread)
    }
}
