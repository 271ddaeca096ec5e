//go:build !unix

package log

const noFollow, noBlocking = 0, 0
