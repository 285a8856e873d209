// SPDX-License-Identifier: GPL-2.0
/*
 * What only a module can be asked: it comes, allows, disallows and goes while VMs run. The VMs, the guest
 * and KVM's own statistics are those of kernel-patch/tests/vm.h.
 *
 * usage: module answers|privileges|late|times|rounds|hostile|leaf|life|alone|l2|watch [NUMBER]
 */
#define _GNU_SOURCE
#define MAX_VCPUS 64

#include <errno.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

/* A process that is stopped and goes on sees KVM_CREATE_VM interrupted. */
static int patient_ioctl(int fd, unsigned long request, unsigned long argument)
{
	int r;

	do {
		r = ioctl(fd, request, argument);
	} while (r < 0 && errno == EINTR && request == KVM_CREATE_VM);
	return r;
}

#define ioctl(fd, request, argument) patient_ioctl(fd, request, (unsigned long)(argument))
#include "../../kernel-patch/tests/vm.h"

#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../vmtally_uapi.h"

#define MODULE "/vmtally.ko"

/* ---- the module ---- */

static bool tell(const char *format, ...)
{
	char line[128];
	va_list args;
	int fd = open("/dev/vmtally", O_WRONLY), n, saved;
	bool ok;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	ok = fd >= 0 && write(fd, line, n) == n;
	saved = errno;
	close(fd);
	errno = saved;
	return ok;
}

static bool load_module(void)
{
	int fd = open(MODULE, O_RDONLY);
	bool ok = fd >= 0 && !syscall(SYS_finit_module, fd, "", 0);

	close(fd);
	return ok;
}

static bool unload_module(void)
{
	return !syscall(SYS_delete_module, "vmtally", O_NONBLOCK);
}

/* The number of the newest VM of a process (0: any process) in the list; 0: it has none there. */
static uint64_t newest_vm(int pid)
{
	char line[256];
	FILE *list = fopen("/dev/vmtally", "r");
	uint64_t id = 0;

	while (list && fgets(line, sizeof(line), list)) {
		unsigned long long n;
		int of;

		if (sscanf(line, "vm %llu pid %d", &n, &of) == 2 && (!pid || of == pid) && n > id)
			id = n;
	}
	if (list)
		fclose(list);
	return id;
}

/* A descriptor of a VM's data; -1. */
static int open_vm(uint64_t id)
{
	int device = open("/dev/vmtally", O_RDONLY);
	int fd = device < 0 ? -1 : ioctl(device, VMTALLY_OPEN_VM, &id);

	close(device);
	return fd;
}

static struct vmtally_header header_of(int fd)
{
	struct vmtally_header h;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != VMTALLY_DATA_MAGIC)
		die("a VM's data");
	return h;
}

static struct vmtally_vcpu vcpu_of(int fd, const struct vmtally_header *h, int i)
{
	struct vmtally_vcpu v;

	if (pread(fd, &v, sizeof(v), h->vcpu_offset + (off_t)i * h->vcpu_size) != sizeof(v))
		die("a vCPU's data");
	return v;
}

static struct vmtally_reason reason_of(int fd, const struct vmtally_header *h, int i, int n)
{
	struct vmtally_reason r;
	off_t at = h->vcpu_offset + (off_t)i * h->vcpu_size + h->reason_offset + n * h->reason_size;

	if (pread(fd, &r, sizeof(r), at) != sizeof(r))
		die("a reason's data");
	return r;
}

/* The sum of a histogram's buckets. */
static uint64_t in_histogram(int fd, const struct vmtally_header *h, int i, int n)
{
	static uint64_t buckets[4096];
	size_t size = h->nr_buckets * 8;
	uint64_t sum = 0;

	if (size > sizeof(buckets) ||
	    pread(fd, buckets, size, h->histogram_offset + ((off_t)i * h->nr_histograms + n) * size) != (ssize_t)size)
		die("a histogram");
	for (uint32_t b = 0; b < h->nr_buckets; b++)
		sum += buckets[b];
	return sum;
}

struct totals {
	uint64_t exits, unseen, by_reason, in_histograms, base;
	bool times_add_up, cycles_add_up;
};

static struct totals totals_of(int fd)
{
	struct vmtally_header h = header_of(fd);
	struct totals t = { .times_add_up = true, .cycles_add_up = true };

	for (uint32_t i = 0; i < h.nr_vcpus; i++) {
		struct vmtally_vcpu v = vcpu_of(fd, &h, i);
		uint64_t sum = 0, cycles = 0;

		t.exits += v.exits;
		t.unseen += v.unseen;
		t.base += v.base;
		for (int n = 0; n < VMTALLY_NR_TIMES; n++)
			sum += v.time[n];
		t.times_add_up &= sum == v.stamp - v.first;
		for (uint32_t n = 0; n < v.nr_reasons; n++) {
			struct vmtally_reason r = reason_of(fd, &h, i, n);

			t.by_reason += r.count;
			cycles += r.cycles;
			if (n < h.nr_histograms)
				t.in_histograms += in_histogram(fd, &h, i, n);
		}
		t.cycles_add_up &= cycles == v.time[VMTALLY_TIME_KERNEL] + v.time[VMTALLY_TIME_PREEMPTED];
	}
	return t;
}

static uint64_t kvm_exits(struct vm *vm)
{
	return stats_of_vm(vm).value[layout.kvm_exits];
}

static int vendor(void)
{
	char text[65536];
	int fd = open("/proc/cpuinfo", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[n > 0 ? n : 0] = 0;
	return strstr(text, " svm") ? SVM : VMX;
}

static struct vm *new_vm(int nr_vcpus)
{
	struct vm *vm = create_vm(nr_vcpus, NOTHING, false);

	vm->vendor = vendor();
	for (int i = 0; i < nr_vcpus; i++) {
		struct kvm_regs regs;

		vm->vcpus[i].shared->vendor = vm->vendor;
		/* vm.h's stacks are for four: 4 KiB each is enough. */
		if (ioctl(vm->vcpus[i].fd, KVM_GET_REGS, &regs))
			die("KVM_GET_REGS");
		regs.rsp = GUEST_STACKS + i * 0x1000 - 8;
		if (ioctl(vm->vcpus[i].fd, KVM_SET_REGS, &regs))
			die("KVM_SET_REGS");
	}
	return vm;
}

/* The leaves, of a VM that is allowed already. */
static void check_answers(void)
{
	struct vm *vm = new_vm(2);
	uint32_t r[4], q[4];

	leaf(&vm->vcpus[0], 0x4fffff00, 0, r, CMD_LEAF);
	expect(r[0] == 0x4fffffff && !memcmp(&r[1], "VMTallyExits", 12), "leaf 0x4FFFFF00: %x \"%.12s\"", r[0], (char *)&r[1]);
	leaf(&vm->vcpus[1], 0x4fffffff, 7, r, CMD_LEAF);
	leaf(&vm->vcpus[0], 0x4fffffff, 9, q, CMD_LEAF);
	expect(q[0] > r[0], "leaf 0x4FFFFFFF: %u exits, then %u", r[0], q[0]);
	leaf(&vm->vcpus[1], 0x4fffff02, 0, r, CMD_LEAF);
	expect(r[0] && r[0] < q[0], "leaf 0x4FFFFF02: %u exits", r[0]);
	destroy_vm(vm);
}

/* The device's mode is no answer: not to a process without the capability, nor to root of a namespace of its own. */
static void check_privileges(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];

	for (int way = 0; way < 2; way++) {
		pid_t child = fork();
		int status;

		if (!child) {
			if (way && unshare(CLONE_NEWUSER))
				exit(2);
			if (!way) {
				if (syscall(SYS_capget, &header, caps))
					exit(2);
				caps[0].effective &= ~(1u << CAP_SYS_ADMIN);
				if (syscall(SYS_capset, &header, caps))
					exit(2);
			}
			exit(open("/dev/vmtally", O_RDWR) < 0 && errno == EPERM ? 0 : 1);
		}
		waitpid(child, &status, 0);
		expect(WIFEXITED(status) && !WEXITSTATUS(status), "%s cannot open the device, whatever its mode",
		       way ? "root of a user namespace" : "root without CAP_SYS_ADMIN");
	}
}

/* ---- work that goes on ---- */

static atomic_bool stop_load;

static void *load_thread(void *vcpu)
{
	struct vcpu *v = vcpu;

	for (int turn = 0; !atomic_load(&stop_load); turn++)
		command(v, turn % 3 ? CMD_CPUID : turn % 2 ? CMD_WRMSR : CMD_HALT, CPUID, turn % 3 ? 200 : 20);
	return NULL;
}

static struct vm *begin_load(int nr_vcpus)
{
	struct vm *vm = new_vm(nr_vcpus);

	atomic_store(&stop_load, false);
	for (int i = 0; i < nr_vcpus; i++) {
		vm->vcpus[i].shared->arg[0] = 20000;
		if (pthread_create(&vm->vcpus[i].thread, NULL, load_thread, &vm->vcpus[i]))
			die("pthread_create");
	}
	return vm;
}

static void end_load(struct vm *vm)
{
	atomic_store(&stop_load, true);
	for (int i = 0; i < vm->nr_vcpus; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
	destroy_vm(vm);
}

/* Work for all vCPUs at once, each of another kind. */
static void work(struct vm *vm, uint64_t n)
{
	static const struct { enum command c; enum reason r; } kinds[] = {
		{ CMD_OUT, IO }, { CMD_CPUID, CPUID }, { CMD_WRMSR, WRMSR }, { CMD_HYPERCALL, HYPERCALL } };

	for (int i = 0; i < vm->nr_vcpus; i++)
		start(&vm->vcpus[i], kinds[i % 4].c, kinds[i % 4].r, n);
	for (int i = 0; i < vm->nr_vcpus; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
}

/*
 * KVM's count since the VM was allowed, and the module's three: its file's, its reasons', the guest's own
 * reading. The vCPUs are parked in userspace, so all is of one moment.
 */
static bool check_since(struct vm *vm, uint64_t before, bool quiet)
{
	int fd = open_vm(newest_vm(getpid()));
	struct totals t = totals_of(fd);
	uint64_t kvm = kvm_exits(vm) - before, kvm_after, guest;
	uint32_t r[4];

	leaf(&vm->vcpus[0], 0x4fffffff, 0, r, CMD_LEAF);
	guest = (uint64_t)r[3] << 32 | r[0];
	kvm_after = kvm_exits(vm) - before - 1;		/* the OUT that ends the command */
	bool ok = t.exits + t.unseen == kvm && t.by_reason == t.exits && guest == kvm_after &&
		  t.base == before && t.times_add_up && t.cycles_add_up;

	close(fd);
	if (!quiet || !ok)
		expect(ok, "%d vCPUs: KVM counts %lu exits since; the module %lu, by reason %lu; the guest reads %lu when KVM has %lu; "
		       "times and cycles %s", vm->nr_vcpus, kvm, t.exits + t.unseen, t.by_reason, guest, kvm_after,
		       t.times_add_up && t.cycles_add_up ? "add up" : "do not add up");
	return ok;
}

/* Loaded and allowed while the VM is there and has run. */
static void check_late(uint64_t n)
{
	static const int sizes[] = { 1, 4, 64 };

	for (int s = 0; s < 3; s++) {
		struct vm *vm = new_vm(sizes[s]);
		uint64_t before;
		uint32_t r[4];

		work(vm, 100);
		expect(load_module(), "loaded into a host whose VM with %d vCPUs has run", sizes[s]);
		leaf(&vm->vcpus[0], 0x4fffff00, 0, r, CMD_LEAF);
		expect(memcmp(&r[1], "VMTallyExits", 12), "it is not allowed: leaf 0x4FFFFF00 is %x %x %x %x", r[0], r[1], r[2], r[3]);
		before = kvm_exits(vm);
		expect(tell("allow %d", getpid()), "allowed: %s", strerror(errno));
		leaf(&vm->vcpus[0], 0x4fffff01, 0, r, CMD_LEAF);
		expect(r[0] == 2 && (r[1] & 0xf) == 0xf, "version %u, features %x: counting began on a VM that ran", r[0], r[1]);
		work(vm, n);
		check_since(vm, before, false);
		expect(tell("disallow %d", getpid()), "disallowed");
		leaf(&vm->vcpus[0], 0x4fffff00, 0, r, CMD_LEAF);
		expect(memcmp(&r[1], "VMTallyExits", 12), "leaf 0x4FFFFF00 is %x %x %x %x again", r[0], r[1], r[2], r[3]);
		expect(unload_module(), "unloaded: %s", strerror(errno));
		work(vm, 10);
		destroy_vm(vm);
	}
}

/* Loads, allows, counts and unloads again, while another VM never stops. */
static void check_rounds(unsigned int rounds)
{
	struct vm *vm = new_vm(2), *busy = begin_load(2);
	unsigned int right = 0;

	work(vm, 100);
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t before = kvm_exits(vm);

		if (!load_module())
			die("loading");
		if (!tell(i % 2 ? "allow all" : "allow %d", getpid()))
			die("allow");
		work(vm, 50 + i % 7);
		/* Both VMs are ours; the first is the first. */
		uint64_t newest = newest_vm(getpid());
		bool ok = false;

		for (uint64_t id = newest; id && !ok; id--) {
			int fd = open_vm(id);

			if (fd < 0)
				continue;
			struct totals t = totals_of(fd);

			ok = t.base == before && t.exits + t.unseen == kvm_exits(vm) - before && t.by_reason == t.exits;
			close(fd);
		}
		right += ok;
		if (!unload_module())
			die("unloading");
	}
	end_load(busy);
	destroy_vm(vm);
	expect(right == rounds, "%u of %u times: loaded, allowed, counted to the exit and unloaded beside a VM under load", right, rounds);
}

/* RBX: a xorshift generator's state; RBP: turns. CPUID of 0x4fffff00 to 0x4fffffff with all of ECX. */
extern const char storm[], storm_end[];
asm(".section .rodata\nstorm:\n"
    "1: mov %rbx, %rax; shl $13, %rax; xor %rax, %rbx; mov %rbx, %rax; shr $7, %rax; xor %rax, %rbx\n"
    "mov %rbx, %rax; shl $17, %rax; xor %rax, %rbx; mov %rbx, %rcx; shr $32, %rcx\n"
    "movzbl %bl, %eax; or $0x4fffff00, %eax; push %rbx; cpuid; pop %rbx; dec %rbp; jnz 1b\n"
    "2: mov $0x501, %edx; out %al, %dx; jmp 2b\n"
    "storm_end: .previous");

static struct vm *storm_vm(int nr_vcpus, uint64_t n)
{
	struct vm *vm = new_vm(nr_vcpus);

	for (int i = 0; i < nr_vcpus; i++) {
		struct kvm_regs regs;

		if (ioctl(vm->vcpus[i].fd, KVM_GET_REGS, &regs))
			die("KVM_GET_REGS");
		memcpy((char *)vm->memory + GUEST_FRESH, storm, storm_end - storm);
		regs.rip = GUEST_FRESH;
		regs.rbx = 0x9e3779b97f4a7c15ull * (i + 1);
		regs.rbp = n;
		if (ioctl(vm->vcpus[i].fd, KVM_SET_REGS, &regs))
			die("KVM_SET_REGS");
	}
	return vm;
}

/* Random leaves and ECX from four vCPUs, while all that root can do goes round. */
static void check_hostile(uint64_t n)
{
	struct vm *vm = storm_vm(4, n / 4);
	unsigned int turns = 0;
	uint64_t before = kvm_exits(vm);

	for (int i = 0; i < 4; i++)
		if (pthread_create(&vm->vcpus[i].thread, NULL, finish_thread, &vm->vcpus[i]))
			die("pthread_create");
	for (bool running = true; running; turns++) {
		if (!load_module())
			die("loading");
		for (int i = 0; i < 3; i++) {
			tell("allow %d", getpid());
			usleep(50000);
			tell(i % 2 ? "disallow %d" : "allow none", getpid());
			tell("allow all");
			usleep(50000);
		}
		if (!unload_module())
			die("unloading");
		running = kvm_exits(vm) - before < n;
	}
	for (int i = 0; i < 4; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
	expect(kvm_exits(vm) - before >= n, "%lu exits of four vCPUs asking for random leaves, in %u turns of load, allow, disallow, unload",
	       kvm_exits(vm) - before, turns);
	destroy_vm(vm);
}

/* RSI: readings wanted; RDI: where to count those that are not ours. Only 0x4fffff00, whose answer is known. */
extern const char readings[], readings_end[];
asm(".section .rodata\nreadings:\n"
    "1: mov $0x4fffff00, %eax; xor %ecx, %ecx; cpuid; cmp $0x73746978, %edx; je 2f; incq (%rdi)\n"
    "2: dec %rsi; jnz 1b\n"
    "3: mov $0x501, %edx; out %al, %dx; jmp 3b\n"
    "readings_end: .previous");

/* 64 vCPUs at once in the leaf: none of them gets KVM's own answer once. */
static void check_leaf(uint64_t n)
{
	if (!load_module() || !tell("allow all"))
		die("loading and allowing");
	struct vm *vm = new_vm(64);
	uint64_t stock = 0, exits;

	for (int i = 0; i < 64; i++) {
		struct vcpu *v = &vm->vcpus[i];
		struct kvm_regs regs;

		if (ioctl(v->fd, KVM_GET_REGS, &regs))
			die("KVM_GET_REGS");
		memcpy((char *)vm->memory + GUEST_FRESH, readings, readings_end - readings);
		regs.rip = GUEST_FRESH;
		regs.rsi = n / 64;
		regs.rdi = GUEST_SHARED + i * 4096 + offsetof(struct shared, out);
		if (ioctl(v->fd, KVM_SET_REGS, &regs))
			die("KVM_SET_REGS");
		if (pthread_create(&v->thread, NULL, finish_thread, v))
			die("pthread_create");
	}
	for (int i = 0; i < 64; i++) {
		pthread_join(vm->vcpus[i].thread, NULL);
		stock += vm->vcpus[i].shared->out[0];
	}
	exits = kvm_exits(vm);
	int fd = open_vm(newest_vm(getpid()));
	struct totals t = totals_of(fd);

	close(fd);
	expect(!stock, "%lu of %lu readings by 64 vCPUs at once had KVM's own answer", stock, n / 64 * 64);
	expect(t.exits + t.unseen == exits && t.by_reason == t.exits, "KVM counts %lu exits, the module %lu, by reason %lu",
	       exits, t.exits + t.unseen, t.by_reason);
	destroy_vm(vm);
	tell("allow none");
	expect(unload_module(), "unloaded");
}

/* ---- VMs that come and go ---- */

static void run_child(unsigned int seed)
{
	struct vm *vm = new_vm(1 + seed % 4);

	for (int turn = 0; turn < 20; turn++) {
		for (int i = 0; i < vm->nr_vcpus; i++) {
			cpu_set_t set;

			vm->vcpus[i].shared->arg[0] = 20000;
			start(&vm->vcpus[i], turn % 2 ? CMD_HALT : CMD_CPUID, CPUID, 100);
			/* To another processor while it runs. */
			CPU_ZERO(&set);
			CPU_SET((seed + turn + i) % 2, &set);
			pthread_setaffinity_np(vm->vcpus[i].thread, sizeof(set), &set);
		}
		for (int i = 0; i < vm->nr_vcpus; i++)
			pthread_join(vm->vcpus[i].thread, NULL);
	}
	if (seed % 3)
		destroy_vm(vm);		/* or as the process ends */
	exit(0);
}

static long vmalloced(void)
{
	char line[512];
	FILE *f = fopen("/proc/vmallocinfo", "r");
	long sum = 0, size;

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "add_vcpu") && sscanf(line, "%*s %ld", &size) == 1)
			sum += size;
	if (f)
		fclose(f);
	return sum;
}

struct cache {
	char name[32];
	long objects;
};

/*
 * The objects in use in each of kmalloc()'s caches: their number, 0 where they cannot be read. What processors and nodes
 * keep for themselves counts as in use, so that is given back first.
 */
static unsigned int kmalloced(struct cache *caches, unsigned int most)
{
	char line[512], path[64];
	unsigned int nr = 0;

	for (int counts = 0; counts < 2; counts++) {
		FILE *f = fopen("/proc/slabinfo", "r");

		while (f && nr < most && fgets(line, sizeof(line), f)) {
			struct cache *c = &caches[nr];

			if (strncmp(line, "kmalloc", 7) || sscanf(line, "%31s %ld", c->name, &c->objects) != 2)
				continue;
			snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", c->name);
			int fd = counts ? -1 : open(path, O_WRONLY);

			if (fd >= 0) {
				if (write(fd, "1", 1) != 1)
					perror(path);
				close(fd);
			}
			nr += counts;
		}
		if (f)
			fclose(f);
	}
	return nr;
}

/*
 * Processes with VMs that start, move, stop, go on, end and are killed, all of them allowed. Without the module it tells
 * what the ground makes of them.
 */
static void check_life(unsigned int processes, bool with_module)
{
	unsigned int killed = 0, ended = 0, failed = 0, living = 0;
	struct cache before[128], after[128];
	unsigned int nr = kmalloced(before, 128), grown = 0;

	if (with_module && (!load_module() || !tell("allow all")))
		die("loading and allowing");
	srand(1);
	for (unsigned int i = 0; i < processes || living; ) {
		pid_t child = -1;
		int status;

		if (i < processes && living < 8) {
			child = fork();
			if (!child)
				run_child(i);
			i++;
			living++;
			if (rand() % 4 == 0) {
				usleep(rand() % 200000);
				kill(child, SIGSTOP);
				usleep(rand() % 20000);
				kill(child, SIGCONT);
			}
			if (rand() % 4 == 0) {
				usleep(rand() % 300000);
				kill(child, SIGKILL);
			}
			if (rand() % 16 == 0 && with_module) {
				tell("disallow %d", child);
				tell("allow all");
			}
		}
		while ((child = waitpid(-1, &status, living < 8 && i < processes ? WNOHANG : 0)) > 0) {
			living--;
			if (WIFSIGNALED(status))
				killed++;
			else if (WEXITSTATUS(status))
				failed++;
			else
				ended++;
			if (living < 8)
				break;
		}
	}
	expect(!failed && ended + killed == processes, "%u processes with VMs: %u ended, %u were killed, %u failed", processes, ended, killed, failed);
	if (!with_module)
		return;
	expect(!newest_vm(0), "none of their VMs is left in the list");
	expect(tell("allow none") && unload_module(), "unloaded");
	expect(!vmalloced(), "and of their accounts' memory %ld bytes", vmalloced());
	/* What is freed after a grace period. */
	sleep(2);
	expect(nr && kmalloced(after, 128) == nr, "%u caches of kmalloc() before and after", nr);
	for (unsigned int i = 0; i < nr; i++) {
		long more = after[i].objects - before[i].objects;

		/* An object for each VM or vCPU would be as many as there were processes, or more. */
		if (more >= (long)processes / 2) {
			printf("      %s: %ld objects more\n", after[i].name, more);
			grown++;
		}
	}
	expect(!grown, "no cache has an object more for every second process: %u have", grown);
}

/* The five times against the VMM's own clock; what the guest's clock says of its own is the series' check. */
static void check_times(unsigned int seconds)
{
	if (!load_module() || !tell("allow all"))
		die("loading and allowing");
	struct vm *vm = new_vm(1);
	struct vcpu *v = &vm->vcpus[0];
	uint32_t r[4];

	leaf(v, 0x4fffff01, 0, r, CMD_LEAF);
	int fd = open_vm(newest_vm(getpid()));
	struct vmtally_header h = header_of(fd);
	struct vmtally_vcpu a = vcpu_of(fd, &h, 0), b;
	uint64_t began = v->last_return, wall, sum = 0;

	v->shared->arg[0] = 300;
	v->shared->arg[1] = 200000;
	command(v, CMD_MIX, IO, (uint64_t)r[2] * 1000 * seconds);
	wall = v->last_return - began;
	b = vcpu_of(fd, &h, 0);
	for (int i = 0; i < VMTALLY_NR_TIMES; i++)
		sum += b.time[i] - a.time[i];
	double off = 100.0 * sum / wall - 100;
	uint64_t own = v->shared->out[0], guest = b.time[VMTALLY_TIME_GUEST] - a.time[VMTALLY_TIME_GUEST];

	printf("      wall %lu ticks (%.1f s), %lu exits: kernel %llu, guest %llu, blocked %llu, preempted %llu, userspace %llu\n",
	       wall, wall / (r[2] * 1000.0), (unsigned long)(b.exits - a.exits), b.time[0] - a.time[0], b.time[1] - a.time[1],
	       b.time[2] - a.time[2], b.time[3] - a.time[3], b.time[4] - a.time[4]);
	printf("      the guest's own clock: %lu in the guest, %.2f %% of wall time less than the tracepoints see\n", own,
	       100.0 * ((double)guest - own) / wall);
	expect(off > -0.1 && off < 0.1, "the five times differ by %.4f %% from the VMM's own wall time", off);
	struct totals t = totals_of(fd);

	expect(t.times_add_up && t.cycles_add_up, "times and cycles add up");
	expect(t.in_histograms + 1 == t.exits, "%lu of %lu exits are in histograms: all but the last, which has not ended", t.in_histograms, t.exits);
	close(fd);
	destroy_vm(vm);
	tell("allow none");
	expect(unload_module(), "unloaded");
}

/* L2's exits are its VM's. What L1 intercepts it handles; what it does not, L0 answers L2 as it would L1. */
static void check_l2(uint64_t n)
{
	if (!load_module() || !tell("allow all"))
		die("loading and allowing");
	struct vm *vm = new_vm(1);
	struct vcpu *v = &vm->vcpus[0];
	uint32_t before[3][4], after[3][4];
	const uint32_t codes[3] = { 0x72, 0x7b, 0x80 };

	command(v, CMD_NESTED, CPUID, 10);
	for (int i = 0; i < 3; i++)
		leaf(v, 0x4ffffffd, codes[i], before[i], CMD_LEAF);
	command(v, CMD_NESTED, CPUID, n);
	for (int i = 0; i < 3; i++)
		leaf(v, 0x4ffffffd, codes[i], after[i], CMD_LEAF);
	/* Three leaves were read from one reading of a leaf to the next, each with the OUT that ends a command. */
	uint32_t cpuids = after[0][0] - before[0][0] - 3, outs = after[1][0] - before[1][0] - 4, vmruns = after[2][0] - before[2][0];

	expect(v->shared->out[1] == 0 && vmruns == n, "L1 entered L2 %u times", vmruns);
	expect(cpuids == n, "L2's CPUIDs, which L1 handles, in L1's tally: %u of %lu", cpuids, n);
	expect(outs == n - 1, "L2's OUTs, which L0 handles, in L1's tally: %u of %lu", outs, n - 1);

	int fd = open_vm(newest_vm(getpid()));
	struct totals t = totals_of(fd);

	expect(t.exits + t.unseen == kvm_exits(vm) && t.by_reason == t.exits, "KVM counts %lu exits, the module %lu, by reason %lu",
	       kvm_exits(vm), t.exits + t.unseen, t.by_reason);
	close(fd);
	destroy_vm(vm);
	tell("allow none");
	expect(unload_module(), "unloaded");
}

/*
 * Waits for the VM of another program, then for FILE, and prints what there is: lines for the shell.
 * Whoever makes FILE has stopped the VM.
 */
static int watch(const char *file)
{
	uint64_t id;
	int fd;

	while (!(id = newest_vm(0)))
		usleep(10000);
	fd = open_vm(id);
	while (access(file, F_OK))
		usleep(10000);
	struct vmtally_header h = header_of(fd);
	struct totals t = totals_of(fd);

	for (uint32_t i = 0; i < h.nr_vcpus; i++) {
		struct vmtally_vcpu v = vcpu_of(fd, &h, i);

		for (uint32_t n = 0; n < v.nr_reasons; n++) {
			struct vmtally_reason r = reason_of(fd, &h, i, n);

			printf("reason %u %llu\n", r.code, r.count);
		}
	}
	printf("total %lu unseen %lu base %lu vcpus %u flags %u times %d cycles %d\n", t.exits + t.unseen, t.unseen, t.base, h.nr_vcpus,
	       h.flags, t.times_add_up, t.cycles_add_up);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned long number = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;

	setbuf(stdout, NULL);
	if (!strcmp(what, "watch"))
		return watch(argv[2]);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		die("/dev/kvm");
	if (!strcmp(what, "answers"))
		check_answers();
	else if (!strcmp(what, "privileges"))
		check_privileges();
	else if (!strcmp(what, "late"))
		check_late(number ? number : 2000);
	else if (!strcmp(what, "times"))
		check_times(number ? number : 10);
	else if (!strcmp(what, "rounds"))
		check_rounds(number ? number : 200);
	else if (!strcmp(what, "hostile"))
		check_hostile(number ? number : 10000000);
	else if (!strcmp(what, "leaf"))
		check_leaf(number ? number : 10000000);
	else if (!strcmp(what, "life"))
		check_life(number ? number : 100, true);
	else if (!strcmp(what, "alone"))
		check_life(number ? number : 100, false);
	else if (!strcmp(what, "l2"))
		check_l2(number ? number : 1000);
	else
		return 64;
	printf("%s: %s, %d failures\n", failures ? "FAILED" : "PASSED", what, failures);
	return failures != 0;
}
