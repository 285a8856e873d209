// SPDX-License-Identifier: Apache-2.0
import Glibc

// libFuzzer's side (https://llvm.org/docs/LibFuzzer.html): `make fuzz-coverage TARGET=name`. It has the main function.

/// The target that VMTALLY_FUZZ_TARGET names. libFuzzer calls from one thread.
private nonisolated(unsafe) let target: any FuzzTarget = {
    let name = getenv("VMTALLY_FUZZ_TARGET").map { String(cString: $0) } ?? ""
    guard let make = FuzzTargets.all[name] else {
        print("VMTALLY_FUZZ_TARGET is one of: \(FuzzTargets.all.keys.sorted().joined(separator: " "))")
        exit(64)
    }
    do {
        return try make()
    } catch {
        print("\(name): \(error)")
        exit(1)
    }
}()

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
    target.run(UnsafeRawBufferPointer(start: data, count: data == nil ? 0 : size))
    return 0
}
