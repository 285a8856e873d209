// SPDX-License-Identifier: Apache-2.0
import GuestCode
import KVM

/// What a machine is to run. The bytes must stay valid until the machine has been built.
public enum Guest {
    /// A static ELFExecutable, entered as docs/guests.md says.
    case bareMetal(UnsafeRawBufferPointer)
    case linux(LinuxImages)
    /// A Multiboot 1 image, as kvm-unit-tests' are.
    case multiboot(UnsafeRawBufferPointer, commandLine: String)

    /// The machine around it: a PC that Linux finds its way in, or the bare minimum.
    var isPC: Bool {
        switch self {
        case .bareMetal: false
        case .linux, .multiboot: true
        }
    }

    /// A Linux that was told to reset by a triple fault: `reboot=t`, or a list with a t in it (kernel-parameters.txt).
    var tripleFaultResets: Bool {
        guard case .linux(let images) = self else { return false }
        return images.commandLine.split(separator: " ").contains { word in
            word.hasPrefix("reboot=")
                && word.dropFirst("reboot=".count).split(separator: ",").contains { $0.first == "t" }
        }
    }

    /// The image of its program or kernel.
    var bytes: UnsafeRawBufferPointer {
        switch self {
        case .bareMetal(let bytes), .multiboot(let bytes, _): bytes
        case .linux(let images): images.kernel
        }
    }

    var isLinux: Bool {
        if case .linux = self { true } else { false }
    }

    /// Multiboot images here are programs that test a machine.
    var isTest: Bool {
        switch self {
        case .multiboot: true
        case .bareMetal, .linux: false
        }
    }

    /// Pins of an I/O APIC in the VMM. Linux asks how many there are; test programs know a PC's.
    func pins(_ devices: DeviceConfiguration) -> Int {
        switch self {
        case .linux: devices.pinsInUse
        case .bareMetal, .multiboot: IOAPIC.pcPins
        }
    }
}

/// A guest in RAM.
enum LoadedGuest {
    case bareMetal(BareMetal, ELFExecutable)
    case linux(LinuxBoot)
    case multiboot(Multiboot)

    init(_ guest: Guest, into memory: GuestMemory, cpus: Int, tables: ACPITables) throws(MachineError) {
        do throws(MachineError) {
            try self.init(loading: guest, into: memory, cpus: cpus, tables: tables)
        } catch {
            throw ImageKind.explain(error, guest.bytes, isLinux: guest.isLinux)
        }
    }

    private init(
        loading guest: Guest, into memory: GuestMemory, cpus: Int, tables: ACPITables
    ) throws(MachineError) {
        switch guest {
        case .bareMetal(let bytes):
            let image = try lifted { () throws(ImageError) in try ELFExecutable(bytes) }
            self = .bareMetal(try BareMetal(image, bytes: bytes, into: memory, cpus: cpus), image)
        case .linux(let images):
            self = .linux(try LinuxBoot(images, into: memory, tables: tables))
        case .multiboot(let bytes, let commandLine):
            self = .multiboot(
                try Multiboot(bytes, commandLine: commandLine, name: "vmtally", into: memory, tables: tables))
            _ = MPTable(cpus: cpus, hasPIC: tables.fixedHardware).write(to: memory)
        }
    }

    /// CPUID instructions that the image lists.
    var sites: [UInt64] {
        switch self {
        case .bareMetal(_, let image): image.sites
        case .linux, .multiboot: []
        }
    }

    /// Where the image's bytes are, linear addresses being physical ones; empty where the guest's code will move.
    var identityMapped: [Range<UInt64>] {
        switch self {
        case .bareMetal(_, let image):
            image.segments.map { $0.address..<$0.address + UInt64($0.file.count) }
        case .linux, .multiboot: []
        }
    }

    /// Whether a vCPU waits for another's INIT and start-up IPI instead of starting with the machine.
    func waits(_ index: Int) -> Bool {
        switch self {
        case .bareMetal: false
        case .linux, .multiboot: index > 0
        }
    }

    /// Puts a vCPU where it starts.
    func start(_ vcpu: borrowing VCPU, index: Int) throws(KVMError) {
        switch self {
        case .bareMetal(let guest, _): try guest.start(vcpu, index: index)
        case .linux(let guest): try guest.start(vcpu, index: index)
        case .multiboot(let guest): try guest.start(vcpu, index: index)
        }
    }
}
