extension CPUIDTable {
    public func answer(leaf: UInt32, subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) { (0,0,0,0) }
}
