// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/vmtally, for root alone: lines to write (allow, disallow), a list to read, and a descriptor
 * for each VM's data.  A device of its own, and not a file of debugfs, since lockdown closes that;
 * nor of sysfs, which cannot ask at open who it is that opens.
 */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "vmtally.h"

/* ---- a VM's data ---- */

struct reader {
	struct vmtally_vm *vm;
	struct mutex lock;		/* header, and reads of it */
	struct vmtally_header header;	/* of the last read that began at 0 */
};

static void fill_header(struct vmtally_vm *vm, struct vmtally_header *h)
{
	u32 vcpu_size = sizeof(struct vmtally_vcpu) +
			VMTALLY_NR_REASONS * sizeof(struct vmtally_reason);

	memset(h, 0, sizeof(*h));
	h->magic = VMTALLY_DATA_MAGIC;
	h->version = VMTALLY_DATA_VERSION;
	h->header_size = sizeof(*h);
	h->id = vm->id;
	h->flags = READ_ONCE(vm->flags);
	h->pid = pid_vnr(vm->pid);
	h->vocabulary = vm->vocabulary;
	h->tsc_khz = tsc_khz;
	h->tsc = rdtsc();
	h->nr_vcpus = smp_load_acquire(&vm->nr_vcpus);	/* pairs with add_vcpu() */
	h->nr_reasons = VMTALLY_NR_REASONS;
	h->vcpu_offset = sizeof(*h);
	h->vcpu_size = vcpu_size;
	h->reason_offset = sizeof(struct vmtally_vcpu);
	h->reason_size = sizeof(struct vmtally_reason);
	h->nr_histograms = VMTALLY_NR_HISTOGRAMS;
	h->histogram_offset = h->vcpu_offset + (u64)h->nr_vcpus * vcpu_size;
	h->nr_buckets = VMTALLY_NR_BUCKETS;
	h->sub_bucket_bits = VMTALLY_SUB_BUCKET_BITS;
	memcpy(h->comm, vm->comm, sizeof(h->comm));
}

static void fill_vcpu(const struct vmtally_account *account, struct vmtally_vcpu *v)
{
	int i;

	memset(v, 0, sizeof(*v));
	if (!account) {
		v->state = VMTALLY_NOT_STARTED;
		return;
	}
	v->id = account->id;
	v->state = READ_ONCE(account->state);
	v->exits = READ_ONCE(account->exits);
	v->unseen = READ_ONCE(account->unseen);
	v->base = READ_ONCE(account->expected) - v->exits - v->unseen;
	v->resets = READ_ONCE(account->resets);
	v->first = READ_ONCE(account->first);
	v->stamp = READ_ONCE(account->stamp);
	for (i = 0; i < VMTALLY_NR_TIMES; i++)
		v->time[i] = READ_ONCE(account->time[i]);
	v->nr_reasons = smp_load_acquire(&account->nr_reasons);	/* pairs with find_place() */
}

struct transfer {
	char __user *to;
	size_t left;
	loff_t at;		/* where in the file */
	loff_t begin;		/* where in the file the next piece begins */
};

/* Copies as much of a piece as the reader asked for; a NULL piece is zeros. */
static int piece(struct transfer *t, const void *from, u64 size)
{
	u64 skip = t->at > t->begin ? t->at - t->begin : 0, n;

	t->begin += size;
	if (skip >= size || !t->left)
		return 0;
	n = min_t(u64, size - skip, t->left);
	if (from ? copy_to_user(t->to, from + skip, n) : clear_user(t->to, n))
		return -EFAULT;
	t->to += n;
	t->at += n;
	t->left -= n;
	return 0;
}

static int piece_reason(struct transfer *t, const struct vmtally_place *place)
{
	const struct vmtally_reason reason = {
		.code = place->code,
		.count = READ_ONCE(place->count),
		.cycles = READ_ONCE(place->cycles),
		.min = READ_ONCE(place->min),
		.max = READ_ONCE(place->max),
	};

	return piece(t, &reason, sizeof(reason));
}

static ssize_t vm_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct transfer t = { .to = to, .left = size, .at = *at };
	struct reader *reader = file->private_data;
	struct vmtally_vm *vm = reader->vm;
	struct vmtally_account *account;
	struct vmtally_vcpu vcpu;
	u32 i, j, n;
	int r;

	if (*at < 0)
		return -EINVAL;
	if (mutex_lock_interruptible(&reader->lock))
		return -EINTR;
	if (!*at || !reader->header.magic)
		fill_header(vm, &reader->header);
	r = piece(&t, &reader->header, sizeof(reader->header));
	n = reader->header.nr_vcpus;
	for (i = 0; i < n && t.left && !r; i++) {
		account = READ_ONCE(vm->vcpus[i]);
		fill_vcpu(account, &vcpu);
		r = piece(&t, &vcpu, sizeof(vcpu));
		for (j = 0; j < vcpu.nr_reasons && !r; j++)
			r = piece_reason(&t, &account->places[j]);
		if (!r)
			r = piece(&t, NULL,
				  (VMTALLY_NR_REASONS - j) * sizeof(struct vmtally_reason));
	}
	for (i = 0; i < n && t.left && !r; i++) {
		account = READ_ONCE(vm->vcpus[i]);
		r = piece(&t, account ? account->histograms : NULL,
			  VMTALLY_NR_HISTOGRAMS * sizeof(vmtally_histogram_t));
		cond_resched();
	}
	mutex_unlock(&reader->lock);
	if (t.at == *at && r)
		return r;
	r = t.at - *at;
	*at = t.at;
	return r;
}

static int vm_close(struct inode *inode, struct file *file)
{
	struct reader *reader = file->private_data;

	vmtally_vm_put(reader->vm);
	kfree(reader);
	return 0;
}

static const struct file_operations vm_operations = {
	.owner = THIS_MODULE,
	.read = vm_read,
	.release = vm_close,
	.llseek = default_llseek,
};

static long open_vm(u64 id)
{
	struct vmtally_vm *vm, *found = NULL;
	struct reader *reader;
	struct file *file;
	int fd;

	mutex_lock(&vmtally_lock);
	list_for_each_entry(vm, &vmtally_vms, node)
		if (vm->id == id) {
			kref_get(&vm->ref);
			found = vm;
		}
	mutex_unlock(&vmtally_lock);
	if (!found)
		return -ENOENT;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		goto no_fd;
	reader = kzalloc_obj(*reader, GFP_KERNEL_ACCOUNT);
	if (!reader) {
		put_unused_fd(fd);
		fd = -ENOMEM;
		goto no_fd;
	}
	reader->vm = found;
	mutex_init(&reader->lock);
	file = anon_inode_getfile("[vmtally-vm]", &vm_operations, reader, O_RDONLY);
	if (IS_ERR(file)) {
		kfree(reader);
		put_unused_fd(fd);
		fd = PTR_ERR(file);
		goto no_fd;
	}
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD;
	fd_install(fd, file);
	return fd;

no_fd:
	vmtally_vm_put(found);
	return fd;
}

/* ---- the device ---- */

static void show_vm(struct seq_file *m, struct vmtally_vm *vm)
{
	u64 exits = 0, cycles = 0;
	u32 i, n = vm->nr_vcpus, vcpus = 0;

	for (i = 0; i < n; i++) {
		struct vmtally_account *a = vm->vcpus[i];

		if (!a)
			continue;
		vcpus++;
		exits += READ_ONCE(a->exits) + READ_ONCE(a->unseen);
		cycles += READ_ONCE(a->time[VMTALLY_TIME_KERNEL]) +
			  READ_ONCE(a->time[VMTALLY_TIME_PREEMPTED]);
	}
	seq_printf(m, "vm %llu pid %d vcpus %u exits %llu cycles %llu vocabulary %s%s%s comm ",
		   vm->id, pid_vnr(vm->pid), vcpus, exits, cycles,
		   vm->vocabulary == VMTALLY_VMX ? "vmx" : "svm",
		   vm->flags & VMTALLY_VM_JOINED_RUNNING ? " joined-running" : "",
		   vm->flags & VMTALLY_VM_INCOMPLETE ? " incomplete" : "");
	seq_escape(m, vm->comm, "\n\\");
	seq_puts(m, "\n");
}

static int device_show(struct seq_file *m, void *unused)
{
	struct vmtally_vm *vm;

	mutex_lock(&vmtally_lock);
	vmtally_show_rules(m);
	list_for_each_entry(vm, &vmtally_vms, node)
		show_vm(m, vm);
	mutex_unlock(&vmtally_lock);
	return 0;
}

static int device_open(struct inode *inode, struct file *file)
{
	/* Of the first namespace: neither the file's mode nor a container's root is enough. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	/* It is the misc device, which single_open() is not to take for its own. */
	file->private_data = NULL;
	return single_open(file, device_show, NULL);
}

static int command(char *line)
{
	char *verb = strsep(&line, " \t"), *what = line ? strim(line) : "";
	bool allow = !strcmp(verb, "allow");
	int pid;

	if (!allow && strcmp(verb, "disallow"))
		return -EINVAL;
	if (!strcmp(what, allow ? "none" : "all")) {
		vmtally_allow_none();
		return 0;
	}
	if (allow && !strcmp(what, "all"))
		return vmtally_allow_all();
	if (!strncmp(what, "name=", 5))
		return allow ? vmtally_allow_name(what + 5) : vmtally_disallow_name(what + 5);
	if (kstrtoint(what, 10, &pid) || pid <= 0)
		return -EINVAL;
	return allow ? vmtally_allow_pid(pid) : vmtally_disallow_pid(pid);
}

/* One line a call: "allow PID|all|none|name=NAME", "disallow PID|all|name=NAME" */
static ssize_t device_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	char line[128];
	int r;

	if (!size || size >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, size))
		return -EFAULT;
	line[size] = 0;
	if (line[size - 1] == '\n')
		line[size - 1] = 0;
	if (strlen(line) + 1 < size || strchr(line, '\n'))
		return -EINVAL;
	r = command(line);
	return r ? r : size;
}

static long device_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	u64 id;

	if (request != VMTALLY_OPEN_VM)
		return -ENOTTY;
	if (copy_from_user(&id, (void __user *)argument, sizeof(id)))
		return -EFAULT;
	return open_vm(id);
}

static const struct file_operations device_operations = {
	.owner = THIS_MODULE,
	.open = device_open,
	.read = seq_read,
	.write = device_write,
	.llseek = seq_lseek,
	.release = single_release,
	.unlocked_ioctl = device_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vmtally",
	.fops = &device_operations,
	.mode = 0600,
};

int vmtally_device_init(void)
{
	return misc_register(&device);
}

void vmtally_device_exit(void)
{
	misc_deregister(&device);
}
