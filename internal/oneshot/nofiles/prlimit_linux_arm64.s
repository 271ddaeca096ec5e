//go:build !cgo

#include "textflag.h"

#define SYS_prlimit64 261
#define RLIMIT_NOFILE 7

// func prlimit(set, get *rlimit) (errno uintptr)
TEXT ·prlimit(SB),NOSPLIT,$0-24
	MOVD	$0, R0 // this process
	MOVD	$RLIMIT_NOFILE, R1
	MOVD	set+0(FP), R2
	MOVD	get+8(FP), R3
	MOVD	$SYS_prlimit64, R8
	SVC
	NEG	R0, R0
	MOVD	R0, errno+16(FP)
	RET
