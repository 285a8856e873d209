// SPDX-License-Identifier: GPL-2.0
/*
 * Just enough of BTF to ask the running kernel what its own KVM looks like: a member's offset, a
 * function's prototype.  The kernel's own functions for this are not exported; its files in
 * /sys/kernel/btf are there for all.  A module's types go on where the kernel's end.
 */
#include <linux/btf.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "vmtally.h"

#define MAX_SIZE	(64u << 20)
#define MAX_DEPTH	16

struct part {
	void *data;
	const char *strings;
	u32 nr_chars;
	u32 nr_types;
	u32 *offsets;		/* of each type in data */
};

struct vmtally_btf {
	struct part parts[2];	/* the kernel's, the module's */
};

static int read_file(const char *path, void **data, u32 *size)
{
	struct file *file = filp_open(path, O_RDONLY, 0);
	loff_t at = 0, length;
	ssize_t n = 0;

	if (IS_ERR(file))
		return PTR_ERR(file);
	length = i_size_read(file_inode(file));
	if (length <= 0 || length > MAX_SIZE) {
		filp_close(file, NULL);
		return -EINVAL;
	}
	*data = vmalloc(length);
	while (*data && at < length) {
		n = kernel_read(file, *data + at, length - at, &at);
		if (n <= 0)
			break;
	}
	filp_close(file, NULL);
	if (*data && at == length) {
		*size = length;
		return 0;
	}
	vfree(*data);
	return *data ? (n < 0 ? n : -EIO) : -ENOMEM;
}

/* What follows a struct btf_type, in bytes; -1: no such kind. */
static long trailer(const struct btf_type *t)
{
	u32 n = btf_type_vlen(t);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(u32);
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return n * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return n * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return n * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return n * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return n * sizeof(struct btf_var_secinfo);
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return 0;
	default:
		return -1;
	}
}

/* Calls nothing and counts if offsets is NULL; fails on anything that does not fit. */
static int walk(struct part *part, u32 begin, u32 end, u32 *offsets)
{
	u32 at = begin, n = 0;

	while (at < end) {
		const struct btf_type *t = part->data + at;
		long more;

		if (end - at < sizeof(*t))
			return -EINVAL;
		more = trailer(t);
		if (more < 0 || more > end - at - sizeof(*t))
			return -EINVAL;
		if (offsets)
			offsets[n] = at;
		n++;
		at += sizeof(*t) + more;
	}
	part->nr_types = n;
	return 0;
}

static int read_part(struct part *part, const char *name)
{
	const struct btf_header *h;
	u64 begin, end, strings;
	char path[64];
	u32 size;
	int r;

	snprintf(path, sizeof(path), "/sys/kernel/btf/%s", name);
	r = read_file(path, &part->data, &size);
	if (r) {
		part->data = NULL;
		return r;
	}
	h = part->data;
	if (size < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > size)
		return -EINVAL;
	begin = (u64)h->hdr_len + h->type_off;
	end = begin + h->type_len;
	strings = (u64)h->hdr_len + h->str_off;
	if (end > size || begin % 4 || strings + h->str_len > size)
		return -EINVAL;
	part->strings = part->data + strings;
	part->nr_chars = h->str_len;
	if (part->nr_chars && part->strings[part->nr_chars - 1])
		return -EINVAL;
	r = walk(part, begin, end, NULL);
	if (r)
		return r;
	part->offsets = vmalloc(array_size(part->nr_types + 1, sizeof(u32)));
	if (!part->offsets)
		return -ENOMEM;
	return walk(part, begin, end, part->offsets);
}

struct vmtally_btf *vmtally_btf_open(const char *module)
{
	struct vmtally_btf *btf = kzalloc_obj(*btf, GFP_KERNEL);
	int r;

	if (!btf)
		return ERR_PTR(-ENOMEM);
	r = read_part(&btf->parts[1], module);
	if (!r)
		r = read_part(&btf->parts[0], "vmlinux");
	if (!r)
		return btf;
	vmtally_btf_close(btf);
	return ERR_PTR(r);
}

void vmtally_btf_close(struct vmtally_btf *btf)
{
	int i;

	for (i = 0; i < 2; i++) {
		vfree(btf->parts[i].offsets);
		vfree(btf->parts[i].data);
	}
	kfree(btf);
}

/* Type 0 is void and in no file. */
static const struct btf_type *type_of(const struct vmtally_btf *btf, u32 id)
{
	const struct part *part = &btf->parts[0];

	if (!id)
		return NULL;
	id--;
	if (id >= part->nr_types) {
		id -= part->nr_types;
		part = &btf->parts[1];
	}
	return id < part->nr_types ? part->data + part->offsets[id] : NULL;
}

static const char *string_of(const struct vmtally_btf *btf, u32 at)
{
	const struct part *part = &btf->parts[0];

	if (at >= part->nr_chars) {
		at -= part->nr_chars;
		part = &btf->parts[1];
	}
	return at < part->nr_chars ? part->strings + at : "";
}

/* The module's own first; a structure that is only declared has kind FWD. */
static const struct btf_type *find_type(const struct vmtally_btf *btf, u32 kind, const char *name)
{
	int p;
	u32 i;

	for (p = 1; p >= 0; p--) {
		const struct part *part = &btf->parts[p];

		for (i = 0; i < part->nr_types; i++) {
			const struct btf_type *t = part->data + part->offsets[i];

			if (BTF_INFO_KIND(t->info) == kind &&
			    !strcmp(string_of(btf, t->name_off), name))
				return t;
		}
	}
	return NULL;
}

/* Without what does not change where a thing is. */
static const struct btf_type *plain(const struct vmtally_btf *btf, u32 id)
{
	const struct btf_type *t = type_of(btf, id);
	int depth;

	for (depth = 0; t && depth < MAX_DEPTH; depth++) {
		switch (BTF_INFO_KIND(t->info)) {
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_CONST:
		case BTF_KIND_RESTRICT:
		case BTF_KIND_TYPE_TAG:
			t = type_of(btf, t->type);
			continue;
		}
		break;
	}
	return t;
}

/* The offset of a member in bits, also inside unnamed structures; *found is the member's type. */
static long member(const struct vmtally_btf *btf, const struct btf_type *t, const char *name,
		   size_t length, const struct btf_type **found, int depth)
{
	const struct btf_member *m = (const void *)(t + 1);
	u32 kind = BTF_INFO_KIND(t->info), i;

	if ((kind != BTF_KIND_STRUCT && kind != BTF_KIND_UNION) || depth > MAX_DEPTH)
		return -ENOENT;
	for (i = 0; i < btf_type_vlen(t); i++) {
		u32 at = BTF_INFO_KFLAG(t->info) ? BTF_MEMBER_BIT_OFFSET(m[i].offset) : m[i].offset;
		const struct btf_type *of = plain(btf, m[i].type);
		const char *own = string_of(btf, m[i].name_off);
		long inside;

		if (strlen(own) == length && !memcmp(own, name, length)) {
			*found = of;
			return at;
		}
		if (*own || !of)
			continue;
		inside = member(btf, of, name, length, found, depth + 1);
		if (inside >= 0)
			return at + inside;
	}
	return -ENOENT;
}

/* vmtally_btf_offset - where a member of a structure is, in bytes; its path may have dots in it */
int vmtally_btf_offset(struct vmtally_btf *btf, const char *structure, const char *path)
{
	const struct btf_type *t = find_type(btf, BTF_KIND_STRUCT, structure);
	long sum = 0;

	while (t) {
		size_t length = strcspn(path, ".");
		long at = member(btf, t, path, length, &t, 0);

		if (at < 0)
			return at;
		sum += at;
		if (!path[length])
			return sum % 8 ? -EINVAL : sum / 8;
		path += length + 1;
	}
	return -ENOENT;
}

/* A type as the prototypes have it: kvm_vcpu*, u32*, bool, int, void. */
static void spell(const struct vmtally_btf *btf, u32 id, char *buffer, size_t size)
{
	const struct btf_type *t = plain(btf, id);
	const char *star = "";

	if (t && BTF_INFO_KIND(t->info) == BTF_KIND_PTR) {
		star = "*";
		t = plain(btf, t->type);
	}
	if (!t)
		strlcat(buffer, "void", size);
	else if (BTF_INFO_KIND(t->info) == BTF_KIND_INT &&
		 !strcmp(string_of(btf, t->name_off), "unsigned int"))
		strlcat(buffer, "u32", size);
	else if (BTF_INFO_KIND(t->info) == BTF_KIND_INT &&
		 !strcmp(string_of(btf, t->name_off), "_Bool"))
		strlcat(buffer, "bool", size);
	else
		strlcat(buffer, string_of(btf, t->name_off), size);
	strlcat(buffer, star, size);
}

/* vmtally_btf_check_function - 0 if the function has that prototype */
int vmtally_btf_check_function(struct vmtally_btf *btf, const char *name, const char *proto)
{
	const struct btf_type *t = find_type(btf, BTF_KIND_FUNC, name);
	const struct btf_param *p;
	char buffer[128] = "";
	u32 i;

	t = t ? type_of(btf, t->type) : NULL;
	if (!t || BTF_INFO_KIND(t->info) != BTF_KIND_FUNC_PROTO)
		return -ENOENT;
	spell(btf, t->type, buffer, sizeof(buffer));
	p = (const void *)(t + 1);
	for (i = 0; i < btf_type_vlen(t); i++) {
		strlcat(buffer, i ? "," : "(", sizeof(buffer));
		spell(btf, p[i].type, buffer, sizeof(buffer));
	}
	strlcat(buffer, i ? ")" : "()", sizeof(buffer));
	return strcmp(buffer, proto) ? -ENOEXEC : 0;
}
