// SPDX-License-Identifier: GPL-2.0
/*
 * The least that a BPF program does to time exits: on kvm_exit it takes the time, on kvm_entry it adds up
 * what has passed and counts one. No reasons, no histogram. Runs a program with that attached.
 *
 * usage: bpf PROGRAM [ARGS...]
 */
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INSN(op, dst, src, offset, value) { .code = (op), .dst_reg = (dst), .src_reg = (src), .off = (offset), .imm = (value) }
#define CALL(f)			INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT			INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define MOV(dst, src)		INSN(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
#define MOVI(dst, value)	INSN(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value)
#define ADDI(dst, value)	INSN(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, value)
#define ALU(op, dst, src)	INSN(BPF_ALU64 | (op) | BPF_X, dst, src, 0, 0)
#define LOAD(dst, src, offset)	INSN(BPF_LDX | BPF_MEM | BPF_DW, dst, src, offset, 0)
#define STORE(dst, offset, src)	INSN(BPF_STX | BPF_MEM | BPF_DW, dst, src, offset, 0)
#define STOREI(dst, offset, v)	INSN(BPF_ST | BPF_MEM | BPF_W, dst, 0, offset, v)
#define MAP(dst, fd)		INSN(BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define IF_ZERO(dst, offset)	INSN(BPF_JMP | BPF_JEQ | BPF_K, dst, 0, offset, 0)
/* R0 = the CPU's three numbers: time of the last exit, sum, count */
#define LOOK_UP(fd)		STOREI(10, -4, 0), MOV(2, 10), ADDI(2, -4), MAP(1, fd), CALL(BPF_FUNC_map_lookup_elem)

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int attach(const char *name, const struct bpf_insn *insns, int n)
{
	static char log[65536];
	union bpf_attr program = {
		.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT,
		.insns = (uintptr_t)insns,
		.insn_cnt = n,
		.license = (uintptr_t)"GPL",
		.log_buf = (uintptr_t)log,
		.log_size = sizeof(log),
		.log_level = 1,
	};
	union bpf_attr where = { .raw_tracepoint = { .name = (uintptr_t)name } };
	int fd = bpf(BPF_PROG_LOAD, &program);

	if (fd < 0) {
		printf("FAIL: BPF for %s: %s\n", name, log);
		return -1;
	}
	where.raw_tracepoint.prog_fd = fd;
	return bpf(BPF_RAW_TRACEPOINT_OPEN, &where);
}

int main(int argc, char **argv)
{
	union bpf_attr map = { .map_type = BPF_MAP_TYPE_PERCPU_ARRAY, .key_size = 4, .value_size = 24, .max_entries = 1 };
	int fd = bpf(BPF_MAP_CREATE, &map), status = 1;
	const struct bpf_insn on_exit[] = {
		LOOK_UP(fd), IF_ZERO(0, 4), MOV(6, 0), CALL(BPF_FUNC_ktime_get_ns), STORE(6, 0, 0), MOVI(0, 0), MOVI(0, 0), EXIT };
	const struct bpf_insn on_entry[] = {
		LOOK_UP(fd), IF_ZERO(0, 10), MOV(6, 0), CALL(BPF_FUNC_ktime_get_ns), LOAD(1, 6, 0), ALU(BPF_SUB, 0, 1),
		LOAD(1, 6, 8), ALU(BPF_ADD, 1, 0), STORE(6, 8, 1), LOAD(1, 6, 16), ADDI(1, 1), STORE(6, 16, 1), MOVI(0, 0), EXIT };

	if (argc < 2 || fd < 0 || attach("kvm_exit", on_exit, sizeof(on_exit) / sizeof(*on_exit)) < 0 ||
	    attach("kvm_entry", on_entry, sizeof(on_entry) / sizeof(*on_entry)) < 0) {
		perror("bpf");
		return 1;
	}
	if (!fork()) {
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	wait(&status);
	return !!status;
}
