// SPDX-License-Identifier: GPL-2.0
/*
 * Where a vCPU's life is not straight: signals in mid-run, immediate_exit, threads that take turns, MP states,
 * NMIs with and without halt polling, vCPUs that are added while others read, VMs that come and go under readers of
 * their statistics. Exit accounting must agree with what the guest did and with KVM's own count in all of it.
 *
 * usage: storm [PART [TEST...]], PART: 10 makes a tenth of the large numbers
 */
#include "vm.h"

#include <signal.h>
#include <stdatomic.h>
#include <time.h>

static const char *now = "";
static int part = 1;
static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

/* Whether the guest has come to the end of its command. One KVM_RUN. */
static bool step(struct vcpu *v)
{
	v->last_call = rdtsc();
	int r = ioctl(v->fd, KVM_RUN, 0);

	v->last_return = rdtsc();
	if (r) {
		if (errno != EINTR)
			die("KVM_RUN");
		return false;
	}
	if (v->run->exit_reason == KVM_EXIT_MMIO)	/* the guest's very first */
		return false;
	if (v->run->exit_reason != KVM_EXIT_IO) {
		printf("FAIL  %s: exit reason %u\n", now, v->run->exit_reason);
		exit(1);
	}
	return v->run->io.port == PORT_DONE;
}

static void tell(struct vcpu *v, enum command c)
{
	v->shared->command = c;
	v->shared->n = 0;
	v->shared->stop = 0;
}

/* What a vCPU has counted since `before`, while it did what it was told. */
struct storm {
	struct vcpu *v;
	struct stats before;
	uint64_t last_call, last_return;	/* of the KVM_RUN before */
};

static struct storm begin(struct vcpu *v, enum command c)
{
	struct storm s = { .v = v };

	command(v, CMD_NOTHING, IO, 0);
	tell(v, c);
	s.before = stats_of(v);
	s.last_call = v->last_call;
	s.last_return = v->last_return;
	return s;
}

static uint64_t since(struct storm *s, const struct stats *after, int at)
{
	return after->value[at] - s->before.value[at];
}

/* Totals, sums and, as far as the guest has counted them itself, CPUIDs and OUTs. */
static void judge(struct storm *s, const char *what)
{
	struct stats after = stats_of(s->v);
	uint64_t exits = 0, cycles = 0, states;
	/* What is between the ends of two KVM_RUNs, each of which is somewhere between call and return. */
	uint64_t least = s->v->last_call - s->last_return, most = s->v->last_return - s->last_call;

	for (int i = 0; i < layout.nr_slots; i++) {
		exits += since(s, &after, layout.reason_exits + i);
		cycles += since(s, &after, layout.reason_cycles + i);
	}
	expect(exits == since(s, &after, layout.total) && exits == since(s, &after, layout.kvm_exits) &&
	       cycles == since(s, &after, layout.cycles),
	       "%s, %s: %lu exits by reason, %lu in all, %lu by KVM's own count; cycles by reason %s", now, what, exits,
	       since(s, &after, layout.total), since(s, &after, layout.kvm_exits),
	       cycles == since(s, &after, layout.cycles) ? "add up" : "do not add up");
	states = since(s, &after, layout.cycles) + since(s, &after, layout.guest) + since(s, &after, layout.blocked) +
		 since(s, &after, layout.userspace) + preempted_of(&after) - preempted_of(&s->before);
	expect(states >= least && states <= most, "%s, %s: the states have %lu cycles, by the clock there were %lu to %lu", now, what,
	       states, least, most);
	if (s->v->shared->command == CMD_STORM) {
		int io = layout.reason_exits + slot(s->v->vm, reasons[s->v->vm->vendor][IO]);
		int id = layout.reason_exits + slot(s->v->vm, reasons[s->v->vm->vendor][CPUID]);

		/* The OUT that ends the command is one more. */
		expect(since(s, &after, id) == s->v->shared->out[0] && since(s, &after, io) == s->v->shared->out[1] + 1,
		       "%s, %s: %lu CPUIDs, the guest made %lu; %lu OUTs, it made %lu", now, what, since(s, &after, id),
		       (unsigned long)s->v->shared->out[0], since(s, &after, io), (unsigned long)s->v->shared->out[1] + 1);
	}
}

static void stop_and_finish(struct vcpu *v)
{
	v->shared->stop = 1;
	while (!step(v))
		;
}

/* SIGUSR1 to this thread, again and again. */
static timer_t alarm_every(long nanoseconds)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { .it_value = { 0, nanoseconds }, .it_interval = { 0, nanoseconds } };
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL))
		die("timer");
	return timer;
}

static void storm_signals(void)
{
	for (int spinning = 0; spinning < 2; spinning++) {
		struct vm *vm = create_vm(1, COUNTED, false);
		struct storm s = begin(&vm->vcpus[0], spinning ? CMD_SPIN : CMD_STORM);
		timer_t timer = alarm_every(700000);

		signals = 0;
		while (signals < 1500 / part)
			step(s.v);
		stop_and_finish(s.v);
		timer_delete(timer);
		judge(&s, spinning ? "spinning" : "exiting");
		destroy_vm(vm);
	}
}

static void storm_immediate(void)
{
	struct vm *vm = create_vm(1, COUNTED, false);
	struct vcpu *v = &vm->vcpus[0];

	for (int i = 0; i < 100; i++) {
		v->run->immediate_exit = 1;
		step(v);
	}
	v->run->immediate_exit = 0;
	struct stats none = stats_of(v);

	expect(!none.value[layout.total] && !none.value[layout.cycles] && !none.value[layout.userspace],
	       "%s: a vCPU that never entered the guest has nothing", now);

	struct storm s = begin(v, CMD_STORM);
	const int runs = 40000 / part;
	char what[40];

	for (int i = 0; i < runs; i++) {
		v->run->immediate_exit = random() & 1;
		step(v);
	}
	v->run->immediate_exit = 0;
	stop_and_finish(v);
	snprintf(what, sizeof(what), "half of %d KVM_RUNs", runs);
	judge(&s, what);
	destroy_vm(vm);
}

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool finished;

static void *take_turns(void *vcpu)
{
	while (!finished) {
		pthread_mutex_lock(&turn);
		if (!finished && step(vcpu))
			finished = true;
		pthread_mutex_unlock(&turn);
		if (!(random() & 7))
			sched_yield();
	}
	return NULL;
}

static void storm_threads(void)
{
	struct vm *vm = create_vm(1, COUNTED, false);
	struct storm s = begin(&vm->vcpus[0], CMD_STORM);
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, take_turns, s.v))
			die("pthread_create");
	usleep(1500000 / part);
	s.v->shared->stop = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	judge(&s, "four in turn");
	destroy_vm(vm);
}

static void storm_mp(void)
{
	struct vm *vm = create_vm(1, COUNTED, false);
	struct storm s = begin(&vm->vcpus[0], CMD_STORM);
	struct kvm_mp_state mp;
	timer_t timer = alarm_every(2000000);

	for (int i = 0; i < 1500 / part; i++) {
		mp.mp_state = i % 3 == 1 ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
		if (ioctl(s.v->fd, KVM_SET_MP_STATE, &mp))
			die("KVM_SET_MP_STATE");
		s.v->run->immediate_exit = i % 6 == 4;
		step(s.v);			/* halted: until the next signal */
	}
	timer_delete(timer);
	s.v->run->immediate_exit = 0;
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	if (ioctl(s.v->fd, KVM_SET_MP_STATE, &mp))
		die("KVM_SET_MP_STATE");
	stop_and_finish(s.v);
	judge(&s, "halted by KVM_SET_MP_STATE");
	struct stats after = stats_of(s.v);
	int halt = layout.reason_exits + slot(vm, reasons[vm->vendor][HALT]);

	expect(since(&s, &after, layout.blocked) && !since(&s, &after, halt), "%s: blocked %lu cycles, with %lu HLTs of the guest's", now,
	       since(&s, &after, layout.blocked), since(&s, &after, halt));
	destroy_vm(vm);
}

static void storm_nmi(void)
{
	for (int polling = 0; polling < 2; polling++) {
		struct vm *vm = create_vm(1, COUNTED, false);
		struct kvm_enable_cap cap = { .cap = KVM_CAP_HALT_POLL, .args = { polling ? 1000000 : 0 } };

		if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap))
			die("KVM_CAP_HALT_POLL");
		struct storm s = begin(&vm->vcpus[0], CMD_HALT_NMI);
		timer_t timer = alarm_every(400000);
		bool done = false;

		/* Between two KVM_RUNs: KVM_NMI waits for the vCPU. */
		for (int i = 0; i < 3000 / part && !done; i++) {
			if (i == 2900 / part)
				s.v->shared->stop = 1;
			if (ioctl(s.v->fd, KVM_NMI, 0))
				die("KVM_NMI");
			done = step(s.v);
		}
		timer_delete(timer);
		judge(&s, polling ? "halts polled for" : "halts not polled for");
		struct stats after = stats_of(s.v);
		int halt = layout.reason_exits + slot(vm, reasons[vm->vendor][HALT]);
		int id = layout.reason_exits + slot(vm, reasons[vm->vendor][CPUID]);

		expect(done && since(&s, &after, halt) == s.v->shared->out[0] && since(&s, &after, id) == s.v->shared->out[1] &&
		       s.v->shared->out[2] > 100 / (unsigned int)part && since(&s, &after, layout.blocked),
		       "%s: %lu HLTs, the guest made %lu; %lu CPUIDs, %lu; %lu NMIs; blocked %lu cycles", now, since(&s, &after, halt),
		       (unsigned long)s.v->shared->out[0], since(&s, &after, id), (unsigned long)s.v->shared->out[1],
		       (unsigned long)s.v->shared->out[2], since(&s, &after, layout.blocked));
		destroy_vm(vm);
	}
}

static void *run_to_end(void *vcpu)
{
	while (!step(vcpu))
		;
	return NULL;
}

/* vCPU 0 reads the VM's total all the time while the others are added and run. */
static void storm_hotplug(void)
{
	struct vm *vm = create_vm(1, CYCLES, false);
	struct vcpu *reader = &vm->vcpus[0];

	command(reader, CMD_NOTHING, IO, 0);
	tell(reader, CMD_READ);
	if (pthread_create(&reader->thread, NULL, run_to_end, reader))
		die("pthread_create");
	for (int i = 1; i < MAX_VCPUS; i++) {
		usleep(40000 / part);
		create_vcpu(vm, i);
		vm->nr_vcpus++;
		tell(&vm->vcpus[i], CMD_STORM);
		if (pthread_create(&vm->vcpus[i].thread, NULL, run_to_end, &vm->vcpus[i]))
			die("pthread_create");
	}
	usleep(500000 / part);
	for (int i = 0; i < MAX_VCPUS; i++)
		vm->vcpus[i].shared->stop = 1;
	for (int i = 0; i < MAX_VCPUS; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
	struct stats all = stats_of_vm(vm);

	expect(reader->shared->out[1] > 100 / (unsigned int)part && !reader->shared->out[0],
	       "%s: %lu readings while %d vCPUs were added and ran, %lu went back", now,
	       (unsigned long)reader->shared->out[1], MAX_VCPUS - 1, (unsigned long)reader->shared->out[0]);
	expect(all.value[layout.total] == all.value[layout.kvm_exits] && reader->shared->out[2] <= all.value[layout.total],
	       "%s: %lu exits accounted, %lu by KVM's own count, the guest's last reading %lu", now, all.value[layout.total],
	       all.value[layout.kvm_exits], (unsigned long)reader->shared->out[2]);
	destroy_vm(vm);
}

#define KEPT 64
static atomic_int kept[KEPT];		/* statistics of VMs, most of which are gone */
static atomic_bool stop_reading;

static void *read_kept(void *unused)
{
	static __thread char buffer[32768];
	uint64_t n = 0;

	(void)unused;
	while (!stop_reading)
		for (int i = 0; i < KEPT; i++)
			if (kept[i] > 0 && pread(kept[i], buffer, sizeof(buffer), random() % 4096) > 0)
				n++;
	return (void *)n;
}

static void *make_vms(void *bad)
{
	for (int i = 0; i < 150 / part; i++) {
		struct vm *vm = create_vm(1, CYCLES, false);
		struct vcpu *v = &vm->vcpus[0];

		tell(v, CMD_STORM);
		for (int k = 0; k < 60; k++)
			step(v);
		stop_and_finish(v);
		struct stats s = stats_of(v);

		*(atomic_int *)bad += s.value[layout.total] != s.value[layout.kvm_exits] ||
				      by_reason(vm, &s, CPUID) != v->shared->out[0];
		int old = atomic_exchange(&kept[random() % KEPT], dup(v->stats));

		if (old > 0)
			close(old);
		destroy_vm(vm);
	}
	return NULL;
}

static void storm_many(void)
{
	static atomic_int bad;
	pthread_t readers[2], makers[3];
	void *n[2];

	destroy_vm(create_vm(1, CYCLES, false));	/* the layout is read before the threads start */
	for (int i = 0; i < 2; i++)
		if (pthread_create(&readers[i], NULL, read_kept, NULL))
			die("pthread_create");
	for (int i = 0; i < 3; i++)
		if (pthread_create(&makers[i], NULL, make_vms, &bad))
			die("pthread_create");
	for (int i = 0; i < 3; i++)
		pthread_join(makers[i], NULL);
	stop_reading = true;
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], &n[i]);
	for (int i = 0; i < KEPT; i++)
		if (kept[i] > 0)
			close(kept[i]);
	expect(!bad && n[0] && n[1], "%s: %d VMs made and destroyed under %lu readings of statistics, %d counted wrong", now,
	       150 / part * 3, (uint64_t)n[0] + (uint64_t)n[1], bad);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = { { "signals", storm_signals }, { "immediate", storm_immediate }, { "threads", storm_threads }, { "mp", storm_mp },
		    { "nmi", storm_nmi }, { "hotplug", storm_hotplug }, { "many", storm_many } };
	const struct sigaction action = { .sa_handler = on_signal };

	if (argc > 1)
		part = atoi(argv[1]);
	if (part < 1 || part > 100) {
		fprintf(stderr, "usage: storm [PART [TEST...]]\n");
		return 64;
	}
	setbuf(stdout, NULL);
	if (sigaction(SIGUSR1, &action, NULL))
		die("sigaction");
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		die("/dev/kvm");
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		bool wanted = argc <= 2;

		for (int k = 2; k < argc; k++)
			wanted |= !strcmp(argv[k], all[i].name);
		if (wanted) {
			now = all[i].name;
			all[i].run();
		}
	}
	printf("%s: storm, %d failures\n", failures ? "FAILED" : "PASSED", failures);
	return failures != 0;
}
