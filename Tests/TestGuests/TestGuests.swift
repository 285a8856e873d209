/// Bare-metal guests that only tests run.
public enum TestGuests {
    /// Compares what the VMM answers with what KVM answers, leaf by leaf (guest-probe/CPUIDWalk).
    public static var cpuidWalk: UnsafeRawBufferPointer {
        withUnsafeBytes(of: &GuestImageCPUIDWalk.words) {
            UnsafeRawBufferPointer(rebasing: $0[..<GuestImageCPUIDWalk.count])
        }
    }
}
