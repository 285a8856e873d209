/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What live CPUID must not disturb, tried from inside a Linux guest. One line for each check, "ok" or "FAILED"; the exit
 * status is the number of failures.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

struct registers {
	uint32_t eax, ebx, ecx, edx;
};

static int failures;

static void check(int right, const char *what)
{
	printf("%s %s\n", right ? "ok" : "FAILED", what);
	fflush(stdout);
	failures += !right;
}

static struct registers cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct registers r;

	__asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
	return r;
}

static uint64_t exits(void)
{
	struct registers r = cpuid(0x4FFFFFFF, 0);

	return (uint64_t)r.edx << 32 | r.eax;
}

/* Live, and leaf 0 as ever: what every reader below asserts. */
static struct registers vendor;

static int reads_right(uint64_t *last)
{
	struct registers r = cpuid(0, 0);
	uint64_t now = exits();
	int right = now > *last && !memcmp(&r, &vendor, sizeof(r));

	*last = now;
	return right;
}

static int run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

static int child_is_right(pid_t child)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Readers that go from processor to processor, several at a time. */
static void migration(int cpus)
{
	pid_t children[4];
	int right = 1;

	for (int i = 0; i < 4; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			uint64_t last = 0;

			for (int n = 0; n < 60; n++)
				if (run_on((i + n) % cpus) || !reads_right(&last))
					_exit(1);
			_exit(0);
		}
	}
	for (int i = 0; i < 4; i++)
		right &= child_is_right(children[i]);
	check(right, "readers that go from processor to processor");
}

static void fork_storm(void)
{
	int right = 1;

	for (int round = 0; round < 10; round++) {
		pid_t children[8];

		for (int i = 0; i < 8; i++) {
			children[i] = fork();
			if (children[i] == 0) {
				uint64_t last = 0;
				pid_t grandchild = fork();

				if (grandchild == 0)
					_exit(!reads_right(&last));
				_exit(!(reads_right(&last) && child_is_right(grandchild)));
			}
		}
		for (int i = 0; i < 8; i++)
			right &= child_is_right(children[i]);
	}
	check(right, "a storm of forks, each child a reader");
}

static volatile int signals, signal_errors;

static void on_alarm(int number)
{
	static uint64_t last;

	(void)number;
	signals++;
	signal_errors += !reads_right(&last);
}

static void signals_meanwhile(void)
{
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } }, never = { { 0, 0 }, { 0, 0 } };
	uint64_t last = 0, rounds = 0;
	int right = 1;

	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &every, NULL);
	while (signals < 20 && rounds++ < 200000)
		right &= reads_right(&last);
	setitimer(ITIMER_REAL, &never, NULL);
	check(right && signals >= 20 && !signal_errors, "signals while CPUID is answered, and CPUID in their handler");
}

/* Runs code that is to fault, and tells how. */
static struct {
	volatile sig_atomic_t count;
	int code;
	uint64_t rip, skip;
} fault;

static void on_fault(int number, siginfo_t *info, void *context)
{
	ucontext_t *state = context;

	fault.count++;
	(void)number;
	fault.code = info->si_code;
	fault.rip = (uint64_t)state->uc_mcontext.gregs[REG_RIP];
	state->uc_mcontext.gregs[REG_RIP] += (long long)fault.skip;
}

static void expect_faults(uint64_t skip)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	memset(&fault, 0, sizeof(fault));
	fault.skip = skip;
	sigaction(SIGSEGV, &action, NULL);
}

static void other_faults(void)
{
	static char buffer[64] __attribute__((aligned(16)));
	uint64_t here;

	/* movaps to an odd address: 3 bytes */
	expect_faults(3);
	__asm__ volatile("lea 1f(%%rip), %0\n1: movaps %%xmm0, (%1)" : "=&r"(here) : "r"(buffer + 1) : "memory");
	check(fault.count == 1 && fault.code == SI_KERNEL && fault.rip == here, "a misaligned SSE access is SIGSEGV");
	/* A read at an address that cannot be: 3 bytes. */
	expect_faults(3);
	__asm__ volatile("lea 1f(%%rip), %0\n1: mov (%1), %%rax"
			 : "=&r"(here) : "r"(1ULL << 63) : "rax", "memory");
	check(fault.count == 1 && fault.code == SI_KERNEL && fault.rip == here, "a non-canonical address is SIGSEGV");
	expect_faults(1);
	__asm__ volatile("lea 1f(%%rip), %0\n1: hlt" : "=&r"(here));
	check(fault.count == 1 && fault.code == SI_KERNEL && fault.rip == here, "HLT in a program is SIGSEGV");
	/* What the kernel tries, and survives: rdmsr_safe() of an MSR that is not there. */
	int msr = open("/dev/cpu/0/msr", O_RDONLY);
	uint64_t value;

	check(msr >= 0 && pread(msr, &value, 8, 0x12345678) < 0 && errno == EIO, "RDMSR in the kernel fails as it should");
	close(msr);
}

/* A byte to the other program, and one back: the processor has changed hands twice. */
static int hand_over(int to, int from)
{
	char byte = 0;

	return write(to, &byte, 1) == 1 && read(from, &byte, 1) == 1;
}

/* arch_prctl(ARCH_SET_CPUID, 0): the program's CPUIDs fault, those of another on the same processor do not. */
static void own_faulting(void)
{
	enum { ROUNDS = 30 };
	uint64_t last = 0, here;
	int there[2], back[2], right = 1;
	int on = (int)syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0);

	/* Linux has it for Intel's processors alone. */
	if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1) && errno == ENODEV && vendor.ebx == 0x68747541)
		return check(on == 1, "ARCH_SET_CPUID is refused, as on any AMD");
	run_on(0);
	if (pipe(there) || pipe(back))
		return check(0, "pipes");
	pid_t other = fork();

	if (other == 0) {
		char byte;

		for (int n = 0; n < ROUNDS && right; n++)
			right = read(there[0], &byte, 1) == 1 && reads_right(&last) && write(back[1], &byte, 1) == 1;
		_exit(!right);
	}
	int off = (int)syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
	int told = (int)syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0);

	expect_faults(2);
	for (int n = 0; n < ROUNDS; n++) {
		__asm__ volatile("lea 1f(%%rip), %0\n1: cpuid" : "=&r"(here) : "a"(0), "c"(0) : "rbx", "rdx");
		right &= hand_over(there[1], back[0]);
	}
	check(on == 1 && off == 0 && told == 0, "ARCH_SET_CPUID and ARCH_GET_CPUID");
	check(fault.count == ROUNDS && fault.code == SI_KERNEL && fault.rip == here,
	      "with it a program's CPUID is SIGSEGV");
	check(child_is_right(other) && right, "and that of another program in between is answered");
	pid_t heir = fork();

	if (heir == 0) {
		expect_faults(2);
		cpuid(0, 0);
		_exit(fault.count != 1);
	}
	check(child_is_right(heir), "a child inherits it");
	syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
	expect_faults(2);
	check(reads_right(&last) && !fault.count && syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == 1, "and back");
}

/* The instruction across two pages, and with prefixes that mean nothing. */
static void odd_places(void)
{
	static const uint8_t prefixed[] = { 0x66, 0x48, 0x0F, 0xA2, 0xC3 };
	uint8_t *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t a = 0, b, c = 0, d;

	memcpy(pages + 4095, prefixed + 2, 3);
	__asm__ volatile("call *%4" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : "r"(pages + 4095));
	check(a == vendor.eax && b == vendor.ebx, "CPUID across two pages");
	memcpy(pages, prefixed, sizeof(prefixed));
	a = c = 0;
	__asm__ volatile("call *%4" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : "r"(pages));
	check(a == vendor.eax && b == vendor.ebx, "CPUID with prefixes");
}

/* A debugger that steps over CPUID stops behind it. */
static void single_step(void)
{
	extern const char step_from[], step_over[], step_to[];
	pid_t child = fork();
	int status;
	uint64_t stops[3] = { 0 };

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		__asm__ volatile("int3\n"
				 ".globl step_from, step_over, step_to\n"
				 "step_from: xor %%eax, %%eax\n"
				 "step_over: cpuid\n"
				 "step_to: nop\n"
				 "nop\n"
				 : : : "rax", "rbx", "rcx", "rdx");
		_exit(0);
	}
	waitpid(child, &status, 0);
	for (int n = 0; n < 3; n++) {
		struct user_regs_struct registers;

		ptrace(PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
		if (!WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, child, 0, &registers))
			break;
		stops[n] = registers.rip;
	}
	ptrace(PTRACE_CONT, child, 0, 0);
	check(stops[0] == (uint64_t)step_over && stops[1] == (uint64_t)step_to && stops[2] == (uint64_t)step_to + 1,
	      "a debugger steps over CPUID");
	if (stops[1] != (uint64_t)step_to)
		printf("stopped at %+ld, %+ld, %+ld\n", (long)(stops[0] - (uint64_t)step_from),
		       (long)(stops[1] - (uint64_t)step_from), (long)(stops[2] - (uint64_t)step_from));
	check(child_is_right(child), "and the program goes on");
}

/* CPUID as the kernel executes it on a processor (the module cpuid). */
static int kernel_cpuid(int cpu, uint32_t leaf, uint32_t subleaf, struct registers *r)
{
	char name[32];

	snprintf(name, sizeof(name), "/dev/cpu/%d/cpuid", cpu);
	int file = open(name, O_RDONLY);
	ssize_t got = pread(file, r, sizeof(*r), (off_t)((uint64_t)subleaf << 32 | leaf));

	close(file);
	return got == sizeof(*r);
}

/* With a breakpoint on the kernel's CPUID, its readings are live too. */
static void kernel_reads_live(int cpus)
{
	int right = 1;

	for (int cpu = 0; cpu < cpus; cpu++) {
		struct registers one, two;
		uint64_t before = exits();

		right &= kernel_cpuid(cpu, 0x4FFFFFFF, 0, &one) && kernel_cpuid(cpu, 0x4FFFFFFF, 0, &two);
		right &= one.eax > before && two.eax > one.eax && two.eax < exits();
	}
	check(right, "the kernel's own CPUID is live");
}

/* Without one KVM answers the kernel: programs must get the same. */
static void same_as_in_the_kernel(int cpus)
{
	static const uint32_t classes[] = { 0, 0x20000000, 0x40000000, 0x80000000, 0x80860000, 0xC0000000 };
	int compared = 0, different = 0;

	for (int cpu = 0; cpu < cpus; cpu++) {
		run_on(cpu);
		for (unsigned c = 0; c < sizeof(classes) / sizeof(*classes); c++) {
			uint32_t highest = cpuid(classes[c], 0).eax;

			if (highest < classes[c] || highest > classes[c] + 0x40)
				highest = classes[c];
			for (uint32_t leaf = classes[c]; leaf <= highest + 2; leaf++)
				for (uint32_t subleaf = 0; subleaf < 12; subleaf++) {
					struct registers kernel, program = cpuid(leaf, subleaf);
					int same = kernel_cpuid(cpu, leaf, subleaf, &kernel) &&
						   !memcmp(&kernel, &program, sizeof(kernel));

					compared++;
					different += !same;
					if (!same)
						printf("CPU %d leaf %x.%x: kernel %x %x %x %x, program %x %x %x %x\n",
						       cpu, leaf, subleaf, kernel.eax, kernel.ebx, kernel.ecx,
						       kernel.edx, program.eax, program.ebx, program.ecx, program.edx);
				}
		}
	}
	printf("%d leaves compared\n", compared);
	check(compared > 500 && !different, "every other leaf is as KVM answers it");
}

/* stress kernel-live|kernel-same [PROGRAM...]: the programs check for themselves. */
int main(int count, char **arguments)
{
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t last = 0;

	if (count < 2)
		return 64;

	vendor = cpuid(0, 0);
	check(reads_right(&last) && reads_right(&last), "the leaf is live");
	migration(cpus);
	fork_storm();
	signals_meanwhile();
	other_faults();
	own_faulting();
	odd_places();
	single_step();
	if (strcmp(arguments[1], "kernel-live") == 0)
		kernel_reads_live(cpus);
	else
		same_as_in_the_kernel(cpus);
	for (int n = 2; n < count; n++) {
		pid_t child = fork();

		if (child == 0) {
			execl(arguments[n], arguments[n], NULL);
			_exit(127);
		}
		check(child_is_right(child), arguments[n]);
	}
	printf("%d failed\n", failures);
	return failures;
}
