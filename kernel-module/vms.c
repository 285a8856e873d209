// SPDX-License-Identifier: GPL-2.0
/*
 * Who is allowed: rules, which root makes, and the VMs that they are for.
 *
 * A rule for a process is bound to its address space, as a VM is by KVM.  So a child that
 * inherited the descriptors owns nothing, and a process that gets the same pid later inherits
 * nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/fdtable.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "vmtally.h"

#define MAX_RULES	256
#define MAX_NAME	64
#define MAX_ARGUMENTS	4096

struct rule {
	struct list_head node;
	struct mm_struct *mm;	/* or NULL */
	struct pid *pid;	/* to show */
	bool deny;
	char name[MAX_NAME];	/* or "" */
};

DEFINE_MUTEX(vmtally_lock);	/* all that follows, and each VM's list of vCPUs */
LIST_HEAD(vmtally_vms);
static LIST_HEAD(rules);
static int nr_rules;
static bool everybody;
static u64 last_id;

/* ---- VMs and their accounts ---- */

static LLIST_HEAD(to_reap);

static void free_account(struct vmtally_account *account)
{
	if (!account)
		return;
	vfree(account->histograms);
	kvfree(account);
}

/*
 * Nobody finds these any more.  Those who had may use them still, and CPUs may remember them:
 * after one grace period nobody makes a CPU remember, after another nobody uses what one
 * remembered.
 */
static void reap(struct work_struct *work)
{
	struct llist_node *dead = llist_del_all(&to_reap);
	struct vmtally_vm *vm, *next;
	u32 i;

	synchronize_rcu_tasks();
	llist_for_each_entry(vm, dead, reap)
		for (i = 0; i < vm->nr_vcpus; i++)
			if (vm->vcpus[i])
				vmtally_forget_account(vm->vcpus[i]);
	synchronize_rcu_tasks();
	llist_for_each_entry_safe(vm, next, dead, reap) {
		for (i = 0; i < vm->nr_vcpus; i++)
			free_account(vm->vcpus[i]);
		kvfree(vm->vcpus);
		put_pid(vm->pid);
		kfree(vm);
	}
}

static DECLARE_WORK(reap_work, reap);

static void release_vm(struct kref *ref)
{
	struct vmtally_vm *vm = container_of(ref, struct vmtally_vm, ref);

	llist_add(&vm->reap, &to_reap);
	schedule_work(&reap_work);
}

void vmtally_vm_put(struct vmtally_vm *vm)
{
	kref_put(&vm->ref, release_vm);
}

static struct vmtally_vm *find_vm(struct kvm *kvm)
{
	struct vmtally_vm *vm;

	list_for_each_entry(vm, &vmtally_vms, node)
		if (vm->kvm == kvm && !(READ_ONCE(vm->flags) & VMTALLY_VM_GONE))
			return vm;
	return NULL;
}

static struct vmtally_vm *make_vm(struct kvm *kvm, struct task_struct *owner)
{
	struct vmtally_vm *vm = kzalloc_obj(*vm, GFP_KERNEL_ACCOUNT);

	if (!vm)
		return NULL;
	vm->vcpus = kvcalloc(KVM_MAX_VCPUS, sizeof(vm->vcpus[0]), GFP_KERNEL_ACCOUNT);
	if (!vm->vcpus) {
		kfree(vm);
		return NULL;
	}
	kref_init(&vm->ref);
	vm->kvm = kvm;
	vm->mm = kvm->mm;
	vm->id = ++last_id;
	vm->vocabulary = vmtally_exit_info.vendor;
	rcu_read_lock();
	vm->pid = get_task_pid(owner, PIDTYPE_TGID);
	get_task_comm(vm->comm, rcu_dereference(owner->group_leader));
	rcu_read_unlock();
	list_add_tail(&vm->node, &vmtally_vms);
	return vm;
}

/* No account is found any more; the VM is off the list. */
static void drop_vm(struct vmtally_vm *vm)
{
	u32 i;

	for (i = 0; i < vm->nr_vcpus; i++)
		if (vm->vcpus[i])
			vmtally_account_remove(vm->vcpus[i]);
	WRITE_ONCE(vm->flags, vm->flags | VMTALLY_VM_GONE);
	list_del(&vm->node);
	vmtally_vm_put(vm);
}

/* VMs whose vCPUs are all destroyed. */
static void drop_dead_vms(void)
{
	struct vmtally_vm *vm, *next;

	list_for_each_entry_safe(vm, next, &vmtally_vms, node)
		if (READ_ONCE(vm->flags) & VMTALLY_VM_GONE)
			drop_vm(vm);
}

static int add_vcpu(struct vmtally_vm *vm, struct kvm_vcpu *vcpu, bool running)
{
	struct vmtally_account *account;
	u32 index = vcpu->vcpu_idx;

	if (index >= KVM_MAX_VCPUS)
		return -EINVAL;
	account = kvzalloc_obj(*account, GFP_KERNEL_ACCOUNT);
	if (!account)
		goto no_memory;
	account->histograms = __vmalloc(VMTALLY_NR_HISTOGRAMS * sizeof(vmtally_histogram_t),
					GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!account->histograms)
		goto no_memory;
	account->vcpu = vcpu;
	account->vm = vm;
	account->id = vcpu->vcpu_id;
	account->state = VMTALLY_NOT_STARTED;
	account->reason = &account->none;
	/* Its count is of use as it is now only if the vCPU cannot be running. */
	account->set_expected = running;
	account->expected = vcpu->stat.exits;
	if (vcpu->stat.exits)
		WRITE_ONCE(vm->flags, vm->flags | VMTALLY_VM_JOINED_RUNNING);
	WRITE_ONCE(vm->vcpus[index], account);
	if (index >= vm->nr_vcpus)
		smp_store_release(&vm->nr_vcpus, index + 1);	/* pairs with readers' acquire */
	vm->nr_alive++;
	vmtally_account_add(account);
	return 0;

no_memory:
	free_account(account);
	WRITE_ONCE(vm->flags, vm->flags | VMTALLY_VM_INCOMPLETE);
	pr_warn("no memory to count the exits of a vCPU of process %d\n", pid_nr(vm->pid));
	return -ENOMEM;
}

/* The vCPUs that a VM has already. */
static int add_vm(struct kvm *kvm, struct task_struct *owner)
{
	struct vmtally_vm *vm = find_vm(kvm);
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r = 0;

	if (!atomic_read(&kvm->online_vcpus))
		return 0;	/* when it gets one */
	if (!vm)
		vm = make_vm(kvm, owner);
	if (!vm)
		return -ENOMEM;
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (!vmtally_find(vcpu) && !r)
			r = add_vcpu(vm, vcpu, true);
	return r;
}

/* ---- names ---- */

static bool is_name_option(const char *argument)
{
	return !strcmp(argument, "-name") || !strcmp(argument, "--name") ||
	       !strcmp(argument, "--id");
}

/* "NAME", "guest=NAME", both with more after a comma */
static bool is_named(const char *value, const char *name)
{
	size_t length = strlen(name);

	if (!strncmp(value, "guest=", 6))
		value += 6;
	return !strncmp(value, name, length) && (!value[length] || value[length] == ',');
}

/* Is it the process's name, or the one that its command line gives to the VM? */
static bool has_name(struct task_struct *task, const char *name)
{
	char comm[TASK_COMM_LEN], *arguments, *a;
	struct mm_struct *mm;
	bool found = false;
	unsigned long begin, size;
	int n;

	rcu_read_lock();
	get_task_comm(comm, rcu_dereference(task->group_leader));
	rcu_read_unlock();
	if (!strcmp(comm, name))
		return true;
	mm = get_task_mm(task);
	if (!mm)
		return false;
	begin = READ_ONCE(mm->arg_start);
	size = min_t(unsigned long, READ_ONCE(mm->arg_end) - begin, MAX_ARGUMENTS - 1);
	mmput(mm);
	arguments = kzalloc(MAX_ARGUMENTS, GFP_KERNEL);
	if (!arguments)
		return false;
	n = access_process_vm(task, begin, arguments, size, FOLL_FORCE);
	for (a = arguments; a < arguments + n && !found; a += strlen(a) + 1) {
		char *value = a + strlen(a) + 1;

		if (is_name_option(a) && value < arguments + n) {
			found = is_named(value, name);
		} else if (strchr(a, '=')) {
			value = strchr(a, '=');
			*value++ = 0;
			found = is_name_option(a) && is_named(value, name);
			a = value;
		}
	}
	kfree(arguments);
	return found;
}

/* ---- rules ---- */

/* By address space, or by name if that is NULL. */
static struct rule *find_rule(struct mm_struct *mm, const char *name)
{
	struct rule *rule;

	list_for_each_entry(rule, &rules, node) {
		if (mm && rule->mm == mm)
			return rule;
		if (!mm && !rule->mm && !strcmp(rule->name, name))
			return rule;
	}
	return NULL;
}

static void free_rule(struct rule *rule)
{
	list_del(&rule->node);
	nr_rules--;
	if (rule->mm)
		mmdrop(rule->mm);
	put_pid(rule->pid);
	kfree(rule);
}

/* Those of processes that have ended. */
static void drop_dead_rules(void)
{
	struct rule *rule, *next;

	list_for_each_entry_safe(rule, next, &rules, node)
		if (rule->mm && !atomic_read(&rule->mm->mm_users))
			free_rule(rule);
}

static int make_rule(struct mm_struct *mm, struct task_struct *task, const char *name, bool deny)
{
	struct rule *rule = find_rule(mm, name);

	if (rule) {
		rule->deny = deny;
		return 0;
	}
	if (nr_rules >= MAX_RULES)
		return -ENOSPC;
	rule = kzalloc_obj(*rule, GFP_KERNEL_ACCOUNT);
	if (!rule)
		return -ENOMEM;
	if (mm) {
		mmgrab(mm);
		rule->mm = mm;
		rule->pid = get_task_pid(task, PIDTYPE_TGID);
	} else {
		strscpy(rule->name, name, sizeof(rule->name));
	}
	rule->deny = deny;
	list_add_tail(&rule->node, &rules);
	nr_rules++;
	return 0;
}

static bool is_allowed(struct mm_struct *mm, struct task_struct *owner)
{
	struct rule *rule = find_rule(mm, "");

	if (rule)
		return !rule->deny;
	if (everybody)
		return true;
	list_for_each_entry(rule, &rules, node)
		if (!rule->mm && has_name(owner, rule->name))
			return true;
	return false;
}

static bool has_allowing_rule(void)
{
	struct rule *rule;

	if (everybody)
		return true;
	list_for_each_entry(rule, &rules, node)
		if (!rule->deny)
			return true;
	return false;
}

/* Hooks are on while there is a rule that allows.  Call with vmtally_lock. */
static int hooks_as_needed(void)
{
	drop_dead_vms();
	drop_dead_rules();
	if (has_allowing_rule())
		return vmtally_hooks_on();
	while (!list_empty(&vmtally_vms))
		drop_vm(list_first_entry(&vmtally_vms, struct vmtally_vm, node));
	vmtally_hooks_off();
	return 0;
}

/* ---- the VMs of a process, by its descriptors ---- */

struct collected {
	struct kvm **kvms;
	struct mm_struct *mm;
	int n, room;
};

static int collect(const void *data, struct file *file, unsigned int fd)
{
	struct collected *c = (struct collected *)data;
	struct kvm *kvm;
	int i;

	if (!vmtally_file_is_vm(file))
		return 0;
	kvm = file->private_data;
	if (kvm->mm != c->mm)	/* inherited, or handed over: not its own */
		return 0;
	for (i = 0; i < c->n && c->n <= c->room; i++)
		if (c->kvms[i] == kvm)
			return 0;
	if (c->n < c->room && kvm_get_kvm_safe(kvm))
		c->kvms[c->n++] = kvm;
	else
		return c->n == c->room;
	return 0;
}

/* Calls add_vm() for each VM of a process; the number of them, or an error. */
static int add_vms_of(struct task_struct *task, struct mm_struct *mm)
{
	struct collected c = { .mm = mm, .room = 256 };
	struct task_struct *thread;
	int i, r = 0;

	c.kvms = kcalloc(c.room, sizeof(c.kvms[0]), GFP_KERNEL);
	if (!c.kvms)
		return -ENOMEM;
	/* The main thread may have ended. */
	rcu_read_lock();
	for_each_thread(task, thread) {
		task_lock(thread);
		if (thread->files)
			iterate_fd(thread->files, 0, collect, &c);
		task_unlock(thread);
		if (c.n)
			break;
	}
	rcu_read_unlock();
	for (i = 0; i < c.n; i++) {
		int one = add_vm(c.kvms[i], task);

		r = r ?: one;
		kvm_put_kvm(c.kvms[i]);
	}
	kfree(c.kvms);
	return r ?: c.n;
}

/* What was added to VMs that run may be on some CPU's list of those to ignore. */
static void no_longer_ignored(void)
{
	struct vmtally_vm *vm;
	u32 i;

	tracepoint_synchronize_unregister();
	list_for_each_entry(vm, &vmtally_vms, node)
		for (i = 0; i < vm->nr_vcpus; i++)
			if (vm->vcpus[i])
				vmtally_forget_ignored(vm->vcpus[i]->vcpu);
}

static struct task_struct *task_of(pid_t nr)
{
	struct pid *pid = find_get_pid(nr);
	struct task_struct *task = get_pid_task(pid, PIDTYPE_PID);

	put_pid(pid);
	return task;
}

/* ---- what root says ---- */

/* Calls with vmtally_lock; removes again what it made if it cannot be. */
static int allow_one(struct task_struct *task, bool expect_vms)
{
	struct mm_struct *mm = get_task_mm(task);
	int r;

	if (!mm)
		return -ESRCH;
	r = add_vms_of(task, mm);
	if (!r && expect_vms)
		r = -ENODEV;
	mmput(mm);
	return r < 0 ? r : 0;
}

int vmtally_allow_pid(pid_t nr)
{
	struct task_struct *task = task_of(nr);
	struct mm_struct *mm;
	int r;

	if (!task)
		return -ESRCH;
	mm = get_task_mm(task);
	if (!mm) {
		put_task_struct(task);
		return -ESRCH;
	}
	mutex_lock(&vmtally_lock);
	r = vmtally_know_vendor();
	if (!r)
		r = make_rule(mm, task, NULL, false);
	if (!r) {
		r = hooks_as_needed();
		if (!r)
			r = allow_one(task, true);
		if (r)
			free_rule(find_rule(mm, ""));
		else
			no_longer_ignored();
	}
	hooks_as_needed();
	mutex_unlock(&vmtally_lock);
	mmput(mm);
	put_task_struct(task);
	return r;
}

/* Goes through all processes and adds the VMs of those that are allowed now. */
static int add_all(void)
{
	struct task_struct **tasks, *task;
	int n = 0, room, i, r = 0;

	rcu_read_lock();
	room = 16;
	for_each_process(task)
		room++;
	rcu_read_unlock();
	tasks = kvcalloc(room, sizeof(*tasks), GFP_KERNEL);
	if (!tasks)
		return -ENOMEM;
	rcu_read_lock();
	for_each_process(task) {
		if (n == room)
			break;
		if (task->flags & PF_KTHREAD)
			continue;
		get_task_struct(task);
		tasks[n++] = task;
	}
	rcu_read_unlock();
	for (i = 0; i < n; i++) {
		struct mm_struct *mm = get_task_mm(tasks[i]);

		if (mm && is_allowed(mm, tasks[i])) {
			int one = allow_one(tasks[i], false);

			r = r ?: one;
		}
		if (mm)
			mmput(mm);
		put_task_struct(tasks[i]);
	}
	kvfree(tasks);
	return r;
}

/* A rule for all or for a name holds without a VM, and before the vendor's module is there. */
static int allow_wide(void)
{
	int r = hooks_as_needed();

	if (r)
		return r;
	r = vmtally_know_vendor();
	if (r == -ENOENT)
		return 0;
	if (!r)
		r = add_all();
	if (!r)
		no_longer_ignored();
	return r;
}

int vmtally_allow_all(void)
{
	struct rule *rule, *next;
	bool before;
	int r;

	mutex_lock(&vmtally_lock);
	before = everybody;
	everybody = true;
	list_for_each_entry_safe(rule, next, &rules, node)
		if (rule->deny)
			free_rule(rule);
	r = allow_wide();
	if (r) {
		everybody = before;
		hooks_as_needed();
	}
	mutex_unlock(&vmtally_lock);
	return r;
}

int vmtally_allow_name(const char *name)
{
	int r;

	if (!*name || strlen(name) >= MAX_NAME)
		return -EINVAL;
	mutex_lock(&vmtally_lock);
	r = make_rule(NULL, NULL, name, false);
	if (!r) {
		r = allow_wide();
		if (r)
			free_rule(find_rule(NULL, name));
	}
	hooks_as_needed();
	mutex_unlock(&vmtally_lock);
	return r;
}

static void drop_vms_of(struct mm_struct *mm)
{
	struct vmtally_vm *vm, *next;

	list_for_each_entry_safe(vm, next, &vmtally_vms, node)
		if (vm->mm == mm)
			drop_vm(vm);
}

/* Also a process that a wider rule allows. */
int vmtally_disallow_pid(pid_t nr)
{
	struct task_struct *task = task_of(nr);
	struct mm_struct *mm = task ? get_task_mm(task) : NULL;
	struct rule *rule;
	int r = mm ? 0 : -ESRCH;

	if (mm) {
		mutex_lock(&vmtally_lock);
		rule = find_rule(mm, "");
		if (rule)
			free_rule(rule);
		if (is_allowed(mm, task))
			r = make_rule(mm, task, NULL, true);
		if (!r)
			drop_vms_of(mm);
		hooks_as_needed();
		mutex_unlock(&vmtally_lock);
		mmput(mm);
	}
	if (task)
		put_task_struct(task);
	return r;
}

/* VMs that the name had allowed and nothing else does. */
int vmtally_disallow_name(const char *name)
{
	struct vmtally_vm *vm, *next;
	struct rule *rule;
	int r = -ENOENT;

	mutex_lock(&vmtally_lock);
	rule = find_rule(NULL, name);
	if (rule) {
		free_rule(rule);
		list_for_each_entry_safe(vm, next, &vmtally_vms, node) {
			struct task_struct *task = get_pid_task(vm->pid, PIDTYPE_TGID);

			if (!task || !is_allowed(vm->mm, task))
				drop_vm(vm);
			if (task)
				put_task_struct(task);
		}
		r = 0;
	}
	hooks_as_needed();
	mutex_unlock(&vmtally_lock);
	return r;
}

void vmtally_allow_none(void)
{
	mutex_lock(&vmtally_lock);
	everybody = false;
	while (!list_empty(&rules))
		free_rule(list_first_entry(&rules, struct rule, node));
	hooks_as_needed();
	mutex_unlock(&vmtally_lock);
}

void vmtally_show_rules(struct seq_file *m)
{
	struct rule *rule;

	drop_dead_vms();
	drop_dead_rules();
	if (everybody)
		seq_puts(m, "allow all\n");
	list_for_each_entry(rule, &rules, node) {
		seq_puts(m, rule->deny ? "disallow " : "allow ");
		if (rule->mm) {
			seq_printf(m, "%d\n", pid_vnr(rule->pid));
		} else {
			seq_puts(m, "name=");
			seq_escape(m, rule->name, "\n\\");
			seq_puts(m, "\n");
		}
	}
}

/* ---- what KVM says ---- */

/*
 * A vCPU is made, by its VM's process.  This may sleep, so ftrace does not wait for it: the module
 * is held until the last instructions, which RCU tasks sees.
 */
void vmtally_vcpu_created(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *stale;
	struct vmtally_vm *vm;

	if (!try_module_get(THIS_MODULE))
		return;
	mutex_lock(&vmtally_lock);
	drop_dead_vms();
	/*
	 * Addresses are used again.  Should the end of the last one have been missed, it ends
	 * here.
	 */
	stale = vmtally_find(vcpu);
	if (stale && (stale->vm->kvm != vcpu->kvm || stale->exits)) {
		vmtally_account_remove(stale);
		stale = NULL;
	}
	vmtally_forget_ignored(vcpu);
	if (!stale && !vmtally_know_vendor() && is_allowed(vcpu->kvm->mm, current)) {
		vm = find_vm(vcpu->kvm) ?: make_vm(vcpu->kvm, current);
		if (vm)
			add_vcpu(vm, vcpu, false);
	}
	mutex_unlock(&vmtally_lock);
	module_put(THIS_MODULE);
}

/* From ftrace's handler, so nothing in here sleeps. */
void vmtally_vcpu_destroyed(struct kvm_vcpu *vcpu)
{
	struct vmtally_account *account = vmtally_find(vcpu);
	struct vmtally_vm *vm;

	if (!account)
		return;
	vm = account->vm;
	vmtally_account_remove(account);
	if (!--vm->nr_alive)
		WRITE_ONCE(vm->flags, vm->flags | VMTALLY_VM_GONE);
}

/* Hooks are off. */
void vmtally_vms_exit(void)
{
	vmtally_allow_none();
	flush_work(&reap_work);
	synchronize_rcu_tasks();
}
