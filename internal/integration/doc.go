// Package integration proves the promises of the whole system from outside: its tests
// start the real binary as separate processes, push and tail through the public doors,
// kill what they like, and ask afterwards whether every line is there, once, and whether
// every place that may hold it gives the same answer. It holds tests only, and reaches the
// system through HTTP, gRPC, the command line and signals alone, as users do.
//
// Environment:
//
//	SKALD_FULL=1   a million lines instead of a hundred thousand
//	SKALD_SEED=N   repeat the random choices of a run that printed the seed N
//	SKALD_PROGRAM=FILE  the binary to test, instead of building it
//	SKALD_KEEP=1   keep the processes' directories and logs after the tests
//	SKALD_KUBERNETES=DIR  etcd and kube-apiserver, as make test-kubernetes builds them
//
// With the race detector on, the binary is built with it too, and a race that it reports
// fails the test that ran it.
package integration
