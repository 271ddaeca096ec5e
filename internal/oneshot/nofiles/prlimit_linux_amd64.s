//go:build !cgo

#include "textflag.h"

#define SYS_prlimit64 302
#define RLIMIT_NOFILE 7

// func prlimit(set, get *rlimit) (errno uintptr)
TEXT ·prlimit(SB),NOSPLIT,$0-24
	MOVQ	$0, DI // this process
	MOVQ	$RLIMIT_NOFILE, SI
	MOVQ	set+0(FP), DX
	MOVQ	get+8(FP), R10
	MOVQ	$SYS_prlimit64, AX
	SYSCALL
	NEGQ	AX
	MOVQ	AX, errno+16(FP)
	RET
