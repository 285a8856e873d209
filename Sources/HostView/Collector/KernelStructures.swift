// SPDX-License-Identifier: Apache-2.0
import CBPF
import CLinux
import ExitStats

/// Where in KVM's structures a VM exit's reason is, read from the types that the kernel and its modules bring
/// (/sys/kernel/btf, open to all).
struct KernelStructures {
    static let none = UInt32.max

    let vocabulary: TallyFeatures.Vocabulary
    /// VMX: of exit_reason in vcpu_vmx. Bytes, as all of these.
    let reason: UInt32
    /// SVM: of exit_code in struct vmcb.
    let reasonInVMCB: UInt32
    /// Of loaded_vmcs or vmcb, and of vmcs01 or vmcb01: the same thing unless a nested guest ran.
    let state: UInt32
    let stateOfL1: UInt32
    /// In struct kvm_vcpu.
    let id: UInt32
    let machine: UInt32
    /// Of the guest's RIP and of the bits of registers that userspace has written, in struct kvm_vcpu.
    let rip: UInt32
    let dirty: UInt32

    /// nil where this kernel has no KVM whose VM exits its tracepoints tell (kvm_pvm).
    init?() throws(CollectorError) {
        guard let kernel = btf__parse("/sys/kernel/btf/vmlinux", nil) else {
            throw CollectorError(
                cause: "no types of the kernel at /sys/kernel/btf/vmlinux",
                remedy: "the kernel needs CONFIG_DEBUG_INFO_BTF")
        }
        defer { btf__free(kernel) }
        // Of two that are built in, the one that this processor has a use for.
        let isAMD = vmtally_cpuid(0x8000_0001, 0).ecx & 1 << 2 != 0  // SVM, APM vol. 3 E.4.2
        for vocabulary in isAMD ? [TallyFeatures.Vocabulary.svm, .vmx] : [.vmx, .svm] {
            let module = vocabulary == .vmx ? "kvm_intel" : "kvm_amd"
            // A module that is built in has its types in the kernel's.
            let own = btf__parse_split("/sys/kernel/btf/\(module)", kernel)
            defer { btf__free(own) }
            guard let types = own.map({ Types($0) }) ?? Self.builtIn(module, kernel) else { continue }
            guard let structures = Self(types, vocabulary) else {
                throw CollectorError(
                    cause: "the types of \(module) are not those that this program knows",
                    remedy: "this kernel is newer: use the tracefs collector")
            }
            self = structures
            return
        }
        return nil
    }

    private static func builtIn(_ module: String, _ kernel: OpaquePointer) -> Types? {
        let types = Types(kernel)
        return types.size(of: module == "kvm_intel" ? "vcpu_vmx" : "vcpu_svm") == nil ? nil : types
    }

    private init?(_ types: Types, _ vocabulary: TallyFeatures.Vocabulary) {
        self.vocabulary = vocabulary
        let outer = vocabulary == .vmx ? "vcpu_vmx" : "vcpu_svm"
        // KVM's own casts between the two rest on this as well.
        guard types.offset(outer, ["vcpu"]) == 0, let id = types.offset("kvm_vcpu", ["vcpu_id"]),
            let machine = types.offset("kvm_vcpu", ["kvm"])
        else { return nil }
        self.id = id
        self.machine = machine
        // Since 7.2 apart from the general registers, behind which it was as number 16.
        let last = types.offset("kvm_vcpu", ["arch", "regs"]).map { $0 + 16 * 8 }
        if let rip = types.offset("kvm_vcpu", ["arch", "rip"]) ?? last,
            let dirty = types.offset("kvm_vcpu", ["arch", "regs_dirty"])
        {
            (self.rip, self.dirty) = (rip, dirty)
        } else {
            (rip, dirty) = (Self.none, Self.none)
        }
        switch vocabulary {
        case .vmx:
            // Since 6.15 in a part that TDX shares.
            guard
                let reason = types.offset(outer, ["exit_reason"]) ?? types.offset(outer, ["vt", "exit_reason"]),
                let state = types.offset(outer, ["loaded_vmcs"]), let first = types.offset(outer, ["vmcs01"])
            else { return nil }
            (self.reason, reasonInVMCB, self.state, stateOfL1) = (reason, Self.none, state, first)
        case .svm:
            guard let vmcb = types.offset(outer, ["vmcb"]), let code = types.offset("vmcb", ["control", "exit_code"]),
                let first = types.offset(outer, ["vmcb01", "ptr"])
            else { return nil }
            (reason, reasonInVMCB, self.state, stateOfL1) = (Self.none, code, vmcb, first)
        case .kvm: return nil
        }
    }
}

/// Structures by name.
private struct Types {
    private let types: OpaquePointer

    init(_ types: OpaquePointer) {
        self.types = types
    }

    private func find(_ name: String) -> UnsafePointer<btf_type>? {
        let id = btf__find_by_name_kind(types, name, UInt32(BTF_KIND_STRUCT))
        return id > 0 ? btf__type_by_id(types, UInt32(id)) : nil
    }

    /// Bytes.
    func size(of name: String) -> UInt32? { find(name)?.pointee.size }

    /// Of a member, or a member's member, in bytes.
    func offset(_ name: String, _ path: [String]) -> UInt32? {
        find(name).flatMap { offset($0, path[...], depth: 0) }
    }

    private func offset(_ type: UnsafePointer<btf_type>, _ path: ArraySlice<String>, depth: Int) -> UInt32? {
        guard let name = path.first, depth < 8 else { return 0 }
        let kind = type.pointee.info >> 24 & 0x1F
        guard kind == UInt32(BTF_KIND_STRUCT) || kind == UInt32(BTF_KIND_UNION) else { return nil }
        let hasBitFields = type.pointee.info >> 31 != 0
        let members = UnsafeRawPointer(type + 1).assumingMemoryBound(to: btf_member.self)
        for index in 0..<Int(type.pointee.info & 0xFFFF) {
            let member = members[index]
            let bits = hasBitFields ? member.offset & 0xFF_FFFF : member.offset
            let own = btf__str_by_offset(types, member.name_off).map { String(cString: $0) } ?? ""
            guard own == name || own.isEmpty else { continue }
            // A member without a name is a structure whose members count as ours.
            let rest = own.isEmpty ? path : path.dropFirst()
            if rest.isEmpty { return bits / 8 }
            guard let inner = resolve(member.type), let more = offset(inner, rest, depth: depth + 1) else { continue }
            return bits / 8 + more
        }
        return nil
    }

    private func resolve(_ id: UInt32) -> UnsafePointer<btf_type>? {
        let final = btf__resolve_type(types, id)
        return final > 0 ? btf__type_by_id(types, UInt32(final)) : nil
    }
}
