// SPDX-License-Identifier: Apache-2.0
import CVMTally
import LinuxSystem

/// The tally page, mapped from /dev/mem.
struct Page {
    let header: UnsafePointer<vmtally_page>

    /// Why a guest's page cannot be read.
    enum Failure {
        /// The VM has none.
        case absent
        /// /dev/mem: errno.
        case locked(Int)
        /// Of another layout.
        case unknown

        var isAbsent: Bool {
            if case .absent = self { true } else { false }
        }
    }

    private init(header: UnsafePointer<vmtally_page>) {
        self.header = header
    }

    /// - Parameter place: what leaf 0x4FFFFF03 tells; nil: look for what ACPI announced.
    static func map(_ place: vmtally_place?) -> (page: Page?, failure: Failure) {
        guard let place = place ?? announced(), place.address != 0 else { return (nil, .absent) }
        let memory = system_open("/dev/mem", 0)
        guard memory >= 0 else { return (nil, .locked(-memory)) }
        // Opened without O_SYNC: cached.
        let address = system_map(Int(place.bytes), Int32(memory), Int(place.address))
        _ = system_close(Int32(memory))
        guard address > 0 else { return (nil, .locked(-address)) }
        guard let header = UnsafePointer<vmtally_page>(bitPattern: address),
            vmtally_page_is_valid(header, place.bytes) != 0
        else { return (nil, .unknown) }
        return (Page(header: header), .absent)
    }

    /// The device VMTL0001 in /proc/iomem, which shows addresses to root alone: for a host whose kernel answers the
    /// leaves and knows of no page.
    private static func announced() -> vmtally_place? {
        let file = system_open("/proc/iomem", 0)
        guard file >= 0, let buffer = system_text_buffer() else { return nil }
        var count = 0
        while count < Int(SYSTEM_TEXT_SIZE) {
            let got = system_read(Int32(file), buffer + count, Int(SYSTEM_TEXT_SIZE) - count)
            guard got > 0 else { break }
            count += got
        }
        _ = system_close(Int32(file))
        var start = 0
        while start < count {
            var end = start
            while end < count, buffer[end] != 0x0A { end += 1 }
            if let place = place(buffer + start, end - start) { return place }
            start = end + 1
        }
        return nil
    }

    /// `  e0000000-e0003fff : VMTL0001:00`
    private static func place(_ line: UnsafePointer<UInt8>, _ count: Int) -> vmtally_place? {
        let name: StaticString = "VMTL0001"
        var index = 0
        func number() -> UInt64 {
            var value: UInt64 = 0
            while index < count {
                let digit = line[index]
                switch digit {
                case 0x30...0x39: value = value << 4 | UInt64(digit - 0x30)
                case 0x61...0x66: value = value << 4 | UInt64(digit - 0x57)
                default: return value
                }
                index += 1
            }
            return value
        }
        while index < count, line[index] == 0x20 { index += 1 }
        let first = number()
        guard index < count, line[index] == 0x2D else { return nil }
        index += 1
        let last = number()
        index += 3
        guard first > 0, last > first, last - first < 1 << 31, count - index >= name.utf8CodeUnitCount else {
            return nil
        }
        for offset in 0..<name.utf8CodeUnitCount where line[index + offset] != name.utf8Start[offset] { return nil }
        return vmtally_place(address: first, bytes: UInt32(last - first + 1), version: 0)
    }

    var features: TallyFeatures {
        TallyFeatures(
            flags: [.live, .perReason, .perVCPU, .page], tscKHz: header.pointee.tsc_khz,
            vocabulary: TallyFeatures.Vocabulary(rawValue: header.pointee.vocabulary) ?? .kvm)
    }

    /// - Parameter vcpu: APIC ID; nil: all.
    func total(_ vcpu: UInt32?) -> TallyPair {
        TallyPair(vcpu.map { vmtally_page_vcpu_total(header, $0) } ?? vmtally_page_total(header))
    }

    func reason(_ code: UInt32) -> TallyPair { TallyPair(vmtally_page_reason(header, code)) }
}

extension TallyPair {
    init(_ pair: vmtally_pair) {
        self.init(count: pair.count, cycles: pair.cycles)
    }
}
