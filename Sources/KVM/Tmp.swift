public enum MSRFilterRange { case deny(ClosedRange<UInt32>) }
extension VirtualMachine {
    public func setIdentityMapAddress(_ a: UInt64) throws(KVMError) {}
    public func setTSSAddress(_ a: UInt64) throws(KVMError) {}
    public func createIRQChip() throws(KVMError) {}
    public func setMSRFilter(defaultAllow: Bool, ranges: [MSRFilterRange]) throws(KVMError) {}
}
extension CPUIDTable {
    public func answer(leaf: UInt32, subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) { (0,0,0,0) }
}
