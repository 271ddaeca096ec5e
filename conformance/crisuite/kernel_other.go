//go:build !linux

package crisuite

import "errors"

func bindMount(string, string) error { return errors.ErrUnsupported }

func shareMount(string) error { return errors.ErrUnsupported }

func characterDevice(string) (string, error) { return "", errors.ErrUnsupported }

func fileLabel(string) (string, error) { return "", errors.ErrUnsupported }

func hugepageSizes() []string { return nil }

func machineHugepages() []string { return nil }

func hybrid() bool { return false }

func limitsSwap() bool { return false }

func makeCgroup(string) error { return errors.ErrUnsupported }

func removeCgroup(string) error { return errors.ErrUnsupported }

func (*runtime) listens() []string { return nil }
