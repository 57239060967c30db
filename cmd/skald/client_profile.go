package main

import (
	"errors"
	"os"
	"runtime"
	"runtime/pprof"
)

// profile starts what --cpuprofile and --memprofile ask for; stop writes the files.
func (o *clientOptions) profile() (stop func() error, err error) {
	var cpu *os.File
	if o.cpuProfile != "" {
		if cpu, err = os.Create(o.cpuProfile); err != nil {
			return nil, err
		}
		if err := pprof.StartCPUProfile(cpu); err != nil {
			return nil, errors.Join(err, cpu.Close())
		}
	}
	return func() error {
		var err error
		if cpu != nil {
			pprof.StopCPUProfile()
			err = cpu.Close()
		}
		if o.memProfile == "" {
			return err
		}
		f, e := os.Create(o.memProfile)
		if e != nil {
			return errors.Join(err, e)
		}
		runtime.GC() // so that the profile shows what is still in use
		return errors.Join(err, pprof.WriteHeapProfile(f), f.Close())
	}, nil
}
