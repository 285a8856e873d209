/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmtally.h - read the VM exits of this virtual machine from inside it, by CPUID.
 *
 * For kernels, boot loaders and programs of any ring on x86-64 and i386. C99 or later, C++11 or later; GCC, Clang or
 * MSVC. Nothing but this file is needed (MSVC: and its <intrin.h>): no libc, no floating point, no globals. All times are
 * TSC cycles, all counts are exits, both of 64 bits.
 *
 *	if (vmtally_available()) {
 *		struct vmtally_pair start = vmtally_start();
 *		work();
 *		struct vmtally_pair cost = vmtally_since(start);
 *		// cost.count exits, cost.cycles TSC cycles: 0 exits with nothing in between
 *	}
 *
 * Where the VMM shares its counters with the guest, a reading is a few loads and no exit; see "The tally page" below:
 *
 *	struct vmtally_place place = vmtally_find_page();
 *	const struct vmtally_page *page = map(place.address, place.bytes); // yours
 *	if (vmtally_page_is_valid(page, place.bytes))
 *		total = vmtally_page_total(page);
 *
 * What a reading by CPUID tells:
 * - The exit that carries a query is in the count it gets, not in the cycles: they are added when the exit has ended.
 *   So two live readings one after the other always differ, by VMTALLY_READ_EXITS in a userspace VMM's count.
 * - The sums never go backwards between two readings by one vCPU.
 * - Without VMTALLY_LIVE the answers are a snapshot from before the vCPU first ran, and do not change.
 * - Without the signature the other leaves mean nothing: some processors answer them with another leaf's data. Always
 *   ask vmtally_available() first, in the ring that will read: a VMM may answer one ring and not the other.
 */
#ifndef VMTALLY_H
#define VMTALLY_H

#if !defined(__x86_64__) && !defined(__i386__) && !defined(_M_X64) && !defined(_M_IX86)
#error "vmtally.h reads CPUID: x86 only"
#endif

#if defined(_MSC_VER)
#include <intrin.h>
#endif

/* Defined before this file is included: vmtally_map_page() of Linux programs, which needs the C library. */
#if defined(VMTALLY_LINUX)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Leaves (EAX) ------------------------------------------------------------------------------------------------ */

/* All exits of the VM, whatever is in ECX. EDX:EAX = exits, EBX:ECX = cycles. */
#define VMTALLY_LEAF_TOTAL        0x4FFFFFFFu
/* All exits of the vCPU that asks, likewise. Version 1 had them in VMTALLY_LEAF_TOTAL with ECX = 1. */
#define VMTALLY_LEAF_VCPU_TOTAL   0x4FFFFF02u
/* Exits of one reason. ECX: reason code. EDX:EAX = exits. */
#define VMTALLY_LEAF_REASON_COUNT 0x4FFFFFFEu
/* Exits of one reason with their cycles. ECX: reason code. EDX:EAX = exits, EBX:ECX = cycles. */
#define VMTALLY_LEAF_REASON       0x4FFFFFFDu
/* EAX = VMTALLY_LEAF_TOTAL; EBX, ECX, EDX = "VMTallyExits". */
#define VMTALLY_LEAF_SIGNATURE    0x4FFFFF00u
/* EAX = ABI version; EBX = feature bits; ECX = TSC frequency; EDX = reason vocabulary. */
#define VMTALLY_LEAF_FEATURES     0x4FFFFF01u

/* EBX:EAX = guest physical address of the tally page, ECX = its bytes, EDX = its layout's version; all 0: none. */
#define VMTALLY_LEAF_PAGE         0x4FFFFF03u

/* "VMTallyExits" in EBX, ECX, EDX. */
#define VMTALLY_SIGNATURE_EBX 0x61544D56u
#define VMTALLY_SIGNATURE_ECX 0x45796C6Cu
#define VMTALLY_SIGNATURE_EDX 0x73746978u

/* The version of the ABI that this header describes. */
#define VMTALLY_ABI_VERSION 2u

/* EDX of the answer to a reason that is not defined; EAX, EBX and ECX are zero then. */
#define VMTALLY_UNDEFINED 0xFFFFFFFFu

/* Exits that one live reading makes, in a userspace VMM's count (VMTALLY_VOCABULARY_KVM). */
#define VMTALLY_READ_EXITS 1u

/* Whose exits. */
enum vmtally_scope {
	VMTALLY_THIS_VM = 0,
	VMTALLY_THIS_VCPU = 1           /* needs VMTALLY_PER_VCPU, and a host of version 2 */
};

/* Feature bits: EBX of VMTALLY_LEAF_FEATURES. */
enum vmtally_feature {
	VMTALLY_LIVE = 1 << 0,          /* readings are of now; clear: a snapshot from before the vCPU first ran */
	VMTALLY_PER_REASON = 1 << 1,    /* VMTALLY_LEAF_REASON and VMTALLY_LEAF_REASON_COUNT are answered */
	VMTALLY_PER_VCPU = 1 << 2,      /* VMTALLY_THIS_VCPU is answered */
	VMTALLY_BEGAN_LATE = 1 << 3,    /* counting began while the VM was running already */
	VMTALLY_HAS_PAGE = 1 << 4       /* VMTALLY_LEAF_PAGE tells where the tally page is */
};

/* What reason codes mean: EDX of VMTALLY_LEAF_FEATURES. */
enum vmtally_vocabulary {
	VMTALLY_VOCABULARY_KVM = 0,     /* KVM_EXIT_* of linux/kvm.h: exits to the userspace VMM */
	VMTALLY_VOCABULARY_VMX = 1,     /* basic exit reasons (Intel SDM vol. 3D, appendix C): VM exits */
	VMTALLY_VOCABULARY_SVM = 2      /* exit codes (AMD APM vol. 2, appendix C): VM exits */
};

/* ---- Types ------------------------------------------------------------------------------------------------------- */

typedef unsigned long long vmtally_u64;

/* What CPUID wrote. */
struct vmtally_registers {
	unsigned int eax, ebx, ecx, edx;
};

/* Exits, and the cycles spent on those that have ended. */
struct vmtally_pair {
	vmtally_u64 count;              /* VM exits */
	vmtally_u64 cycles;             /* TSC cycles */
};

struct vmtally_features {
	unsigned int version;           /* of the ABI: VMTALLY_ABI_VERSION */
	unsigned int flags;             /* enum vmtally_feature, or-ed */
	unsigned int tsc_khz;           /* TSC cycles a millisecond; 0: unknown */
	unsigned int vocabulary;        /* enum vmtally_vocabulary, or a later version's */
};

/* ---- Decoding: no CPUID here ------------------------------------------------------------------------------------- */

/* Nonzero when these are the answer to VMTALLY_LEAF_SIGNATURE. */
static inline int vmtally_is_signature(struct vmtally_registers r)
{
	return r.eax == VMTALLY_LEAF_TOTAL && r.ebx == VMTALLY_SIGNATURE_EBX && r.ecx == VMTALLY_SIGNATURE_ECX &&
	       r.edx == VMTALLY_SIGNATURE_EDX;
}

/* Nonzero when these are the answer to a reason that is not defined. */
static inline int vmtally_is_undefined(struct vmtally_registers r)
{
	return r.eax == 0 && r.ebx == 0 && r.ecx == 0 && r.edx == VMTALLY_UNDEFINED;
}

/* The answer to VMTALLY_LEAF_TOTAL, _VCPU_TOTAL or _REASON; zeros for one that is not defined. */
static inline struct vmtally_pair vmtally_decode_pair(struct vmtally_registers r)
{
	struct vmtally_pair pair = { 0, 0 };

	if (!vmtally_is_undefined(r)) {
		pair.count = (vmtally_u64)r.edx << 32 | r.eax;
		pair.cycles = (vmtally_u64)r.ebx << 32 | r.ecx;
	}
	return pair;
}

/* The answer to VMTALLY_LEAF_REASON_COUNT; zero for a reason that is not defined. */
static inline vmtally_u64 vmtally_decode_count(struct vmtally_registers r)
{
	return vmtally_is_undefined(r) ? 0 : (vmtally_u64)r.edx << 32 | r.eax;
}

/* The answer to VMTALLY_LEAF_FEATURES. */
static inline struct vmtally_features vmtally_decode_features(struct vmtally_registers r)
{
	struct vmtally_features features;

	features.version = r.eax;
	features.flags = r.ebx;
	features.tsc_khz = r.ecx;
	features.vocabulary = r.edx;
	return features;
}

/* ---- Reading: one CPUID each, which is an exit when the answers are live ------------------------------------------ */

static inline struct vmtally_registers vmtally_cpuid(unsigned int leaf, unsigned int subleaf)
{
	struct vmtally_registers r;
#if defined(_MSC_VER)
	int words[4];

	__cpuidex(words, (int)leaf, (int)subleaf);
	r.eax = (unsigned int)words[0];
	r.ebx = (unsigned int)words[1];
	r.ecx = (unsigned int)words[2];
	r.edx = (unsigned int)words[3];
#else

	/* Volatile: what CPUID says changes from one time to the next. */
	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "0"(leaf), "2"(subleaf)
			 : "memory");
#endif
	return r;
}

/* Nonzero when the tally can be read in this ring. */
static inline int vmtally_available(void)
{
	return vmtally_is_signature(vmtally_cpuid(VMTALLY_LEAF_SIGNATURE, 0));
}

static inline struct vmtally_features vmtally_read_features(void)
{
	return vmtally_decode_features(vmtally_cpuid(VMTALLY_LEAF_FEATURES, 0));
}

/* All exits of the VM or of the vCPU that asks. */
static inline struct vmtally_pair vmtally_total(enum vmtally_scope scope)
{
	return vmtally_decode_pair(
		vmtally_cpuid(scope == VMTALLY_THIS_VM ? VMTALLY_LEAF_TOTAL : VMTALLY_LEAF_VCPU_TOTAL, 0));
}

/*
 * The VM's total before some work, for vmtally_since(): as it is going to be when the exit of the last of three readings
 * is over. What that exit costs is taken from the cheaper of the two before it.
 */
static inline struct vmtally_pair vmtally_start(void)
{
	struct vmtally_pair first = vmtally_total(VMTALLY_THIS_VM);
	struct vmtally_pair second = vmtally_total(VMTALLY_THIS_VM);
	struct vmtally_pair start = vmtally_total(VMTALLY_THIS_VM);
	vmtally_u64 one = second.cycles - first.cycles, other = start.cycles - second.cycles;

	start.count += VMTALLY_READ_EXITS;
	start.cycles += one < other ? one : other;
	return start;
}

/* What the VM's total has grown since vmtally_start(), without the readings' own: no exits when there were none. */
static inline struct vmtally_pair vmtally_since(struct vmtally_pair start)
{
	struct vmtally_pair now = vmtally_total(VMTALLY_THIS_VM);

	/* Not live: no growth. Cycles: this reading's predecessor may have been cheaper than thought. */
	now.count = now.count > start.count ? now.count - start.count : 0;
	now.cycles = now.cycles > start.cycles ? now.cycles - start.cycles : 0;
	return now;
}

/*
 * Exits of one reason of the VM's vocabulary, and their cycles: a pair that belongs together. Returns nonzero, or zero
 * for a reason that the vocabulary does not define.
 */
static inline int vmtally_reason(unsigned int code, struct vmtally_pair *pair)
{
	struct vmtally_registers r = vmtally_cpuid(VMTALLY_LEAF_REASON, code);

	*pair = vmtally_decode_pair(r);
	return !vmtally_is_undefined(r);
}

/* Exits of one reason alone; zero as well for a reason that the vocabulary does not define. */
static inline vmtally_u64 vmtally_reason_count(unsigned int code)
{
	return vmtally_decode_count(vmtally_cpuid(VMTALLY_LEAF_REASON_COUNT, code));
}

/* ---- The tally page: the VMM's counters themselves, read-only in the guest's memory ------------------------------- */

/*
 * Userspace exits of every vCPU, live, whatever CPUID can answer. A reading makes no exit, so that two in a row need not
 * differ. Map the page write-back and read-only. A store to it is an exit that changes nothing.
 */

/* The layout's version that this header reads. */
#define VMTALLY_PAGE_VERSION 1u

/* Guest physical; all zero: there is none. */
struct vmtally_place {
	vmtally_u64 address;
	unsigned int bytes;
	unsigned int version;
};

/* The header. Offsets are bytes, little-endian as everything; a reader goes by them. */
struct vmtally_page {
	unsigned char magic[8];         /* "VMTALLY1" */
	unsigned int version;           /* VMTALLY_PAGE_VERSION */
	unsigned int bytes;             /* all of it, this header included */
	unsigned int tsc_khz;           /* 0: unknown */
	unsigned int vocabulary;        /* enum vmtally_vocabulary */
	unsigned int vcpus;             /* blocks: vCPU n's is number n, and n its APIC ID */
	unsigned int blocks;            /* the first one's offset in the page */
	unsigned int stride;            /* from one to the next */
	unsigned int slots;             /* in a block, whose first counters are of all reasons: those of each reason */
	unsigned int direct;            /* slots of the reasons below this number, by code */
	unsigned int claimed;           /* slots behind them, claimed by other reasons at their first exit; the last one is
					   shared by those that found none */
	unsigned int claims;            /* in a block: how many of these are in use */
	unsigned int codes;             /* in a block: whose they are, an unsigned int each */
	vmtally_u64 boot;               /* one more with each start of the guest whose counters go on */
};

/* Counters of one reason, or of all. What else is in a block is the writer's own and means nothing. */
struct vmtally_counters {
	vmtally_u64 count;              /* exits */
	vmtally_u64 cycles;             /* of those that have ended */
	vmtally_u64 inverted_min;       /* the shortest, all bits inverted; 0: none has ended */
	vmtally_u64 max;                /* the longest */
};

/* Where the page is. One or three CPUIDs; once is enough, it never moves. */
static inline struct vmtally_place vmtally_find_page(void)
{
	struct vmtally_place place = { 0, 0, 0 };
	struct vmtally_registers r;

	if (!vmtally_available() || !(vmtally_read_features().flags & VMTALLY_HAS_PAGE))
		return place;
	r = vmtally_cpuid(VMTALLY_LEAF_PAGE, 0);
	place.address = (vmtally_u64)r.ebx << 32 | r.eax;
	place.bytes = r.ecx;
	place.version = r.edx;
	return place;
}

/* Nonzero when this can be read with the functions below: all that they go by lies within `bytes`. */
static inline int vmtally_page_is_valid(const struct vmtally_page *page, unsigned int bytes)
{
	static const unsigned char magic[8] = { 'V', 'M', 'T', 'A', 'L', 'L', 'Y', '1' };
	unsigned int i;

	if (!page || bytes < sizeof(*page))
		return 0;
	for (i = 0; i < 8; i++)
		if (page->magic[i] != magic[i])
			return 0;
	return page->version == VMTALLY_PAGE_VERSION && page->bytes <= bytes && page->vcpus > 0 && page->stride > 0 &&
	       page->blocks <= page->bytes && page->stride <= (page->bytes - page->blocks) / page->vcpus &&
	       page->direct <= 0x10000 && page->claimed <= 0x10000 && page->slots <= page->stride &&
	       page->direct + page->claimed <= (page->stride - page->slots) / sizeof(struct vmtally_counters) &&
	       page->claims <= page->stride - 8 && page->codes <= page->stride &&
	       page->claimed <= (page->stride - page->codes) / 4 && (page->blocks | page->stride | page->slots) % 8 == 0 &&
	       page->claims % 8 == 0 && page->codes % 4 == 0;
}

/* A counter that another processor may be changing. */
static inline vmtally_u64 vmtally_load(const vmtally_u64 *counter)
{
#if defined(__x86_64__) || defined(_M_X64)
	return *(const volatile vmtally_u64 *)counter;
#else
	const volatile unsigned int *half = (const volatile unsigned int *)counter;
	unsigned int low, high;

	do {
		high = half[1];
		low = half[0];
	} while (half[1] != high);
	return (vmtally_u64)high << 32 | low;
#endif
}

/* Count and cycles of one moment: read again while an exit begins in between, within reason. */
static inline struct vmtally_pair vmtally_read_counters(const struct vmtally_counters *counters)
{
	struct vmtally_pair pair;
	vmtally_u64 count = vmtally_load(&counters->count);
	int tries = 64;

	do {
		pair.count = count;
		pair.cycles = vmtally_load(&counters->cycles);
		count = vmtally_load(&counters->count);
	} while (count != pair.count && tries-- > 0);
	return pair;
}

static inline const char *vmtally_page_block(const struct vmtally_page *page, unsigned int vcpu)
{
	return (const char *)page + page->blocks + (vmtally_u64)vcpu * page->stride;
}

/* All exits of one vCPU, by its APIC ID; zeros where there is none. */
static inline struct vmtally_pair vmtally_page_vcpu_total(const struct vmtally_page *page, unsigned int vcpu)
{
	struct vmtally_pair none = { 0, 0 };

	if (vcpu >= page->vcpus)
		return none;
	return vmtally_read_counters((const struct vmtally_counters *)(const void *)vmtally_page_block(page, vcpu));
}

/* All exits of the VM. */
static inline struct vmtally_pair vmtally_page_total(const struct vmtally_page *page)
{
	struct vmtally_pair sum = { 0, 0 };
	unsigned int vcpu;

	for (vcpu = 0; vcpu < page->vcpus; vcpu++) {
		struct vmtally_pair own = vmtally_page_vcpu_total(page, vcpu);

		sum.count += own.count;
		sum.cycles += own.cycles;
	}
	return sum;
}

/* A vCPU's counters of one reason; null when it has not happened there, or has no slot of its own. */
static inline const struct vmtally_counters *vmtally_page_slot(const struct vmtally_page *page, unsigned int vcpu,
							       unsigned int code)
{
	const char *block = vmtally_page_block(page, vcpu);
	const struct vmtally_counters *slots = (const struct vmtally_counters *)(const void *)(block + page->slots);
	const volatile unsigned int *codes = (const volatile unsigned int *)(const void *)(block + page->codes);
	vmtally_u64 used;
	unsigned int i;

	if (code < page->direct)
		return slots + code;
	used = vmtally_load((const vmtally_u64 *)(const void *)(block + page->claims));
	for (i = 0; i < used && i < page->claimed; i++)
		if (codes[i] == code)
			return slots + page->direct + i;
	return (const struct vmtally_counters *)0;
}

/* The VM's exits of one reason; zeros for one that has not happened, or that the vocabulary does not define. */
static inline struct vmtally_pair vmtally_page_reason(const struct vmtally_page *page, unsigned int code)
{
	struct vmtally_pair sum = { 0, 0 };
	unsigned int vcpu;

	for (vcpu = 0; vcpu < page->vcpus; vcpu++) {
		const struct vmtally_counters *counters = vmtally_page_slot(page, vcpu, code);

		if (counters) {
			struct vmtally_pair own = vmtally_read_counters(counters);

			sum.count += own.count;
			sum.cycles += own.cycles;
		}
	}
	return sum;
}

/* TSC cycles of the VM's shortest and longest exit of one reason. Returns zero when none has ended. */
static inline int vmtally_page_range(const struct vmtally_page *page, unsigned int code, vmtally_u64 *min,
				     vmtally_u64 *max)
{
	vmtally_u64 inverted = 0, longest = 0;
	unsigned int vcpu;

	for (vcpu = 0; vcpu < page->vcpus; vcpu++) {
		const struct vmtally_counters *counters = vmtally_page_slot(page, vcpu, code);

		if (counters) {
			vmtally_u64 shortest = vmtally_load(&counters->inverted_min), own = vmtally_load(&counters->max);

			inverted = shortest > inverted ? shortest : inverted;
			longest = own > longest ? own : longest;
		}
	}
	*min = ~inverted;
	*max = longest;
	return inverted != 0;
}

#if defined(VMTALLY_LINUX)
/*
 * The page as a Linux program sees it: /dev/mem, which takes root, and a kernel that is not locked down. Null when there
 * is none or it may not be mapped (errno): use CPUID then. On i386 with -D_FILE_OFFSET_BITS=64.
 */
static inline const struct vmtally_page *vmtally_map_page(void)
{
	struct vmtally_place place = vmtally_find_page();
	void *page;
	int memory;

	if (place.address == 0)
		return (const struct vmtally_page *)0;
	/* Without O_SYNC, which would make the loads uncached. */
	memory = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	if (memory < 0)
		return (const struct vmtally_page *)0;
	page = mmap((void *)0, place.bytes, PROT_READ, MAP_SHARED, memory, (off_t)place.address);
	close(memory);
	if (page == MAP_FAILED)
		return (const struct vmtally_page *)0;
	if (!vmtally_page_is_valid((const struct vmtally_page *)page, place.bytes)) {
		munmap(page, place.bytes);
		return (const struct vmtally_page *)0;
	}
	return (const struct vmtally_page *)page;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
