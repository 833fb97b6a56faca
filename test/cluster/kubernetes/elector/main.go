// Takes part in a leader election as controllers of Kubernetes do, by client-go: the oracle for src/kube/lease.ts.
//
//	elector URL CA-FILE TOKEN NAMESPACE NAME IDENTITY
//
// Prints "leads" and "ended"; ends at SIGTERM, giving the lease back.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	args := os.Args[1:]
	if len(args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: elector URL CA-FILE TOKEN NAMESPACE NAME IDENTITY")
		os.Exit(2)
	}
	config := &rest.Config{Host: args[0], BearerToken: args[2], TLSClientConfig: rest.TLSClientConfig{CAFile: args[1]}}
	client := kubernetes.NewForConfigOrDie(config)
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, args[3], args[4], client.CoreV1(), client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: args[5]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   3 * time.Second,
		RenewDeadline:   2 * time.Second,
		RetryPeriod:     500 * time.Millisecond,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { fmt.Println("leads"); <-ctx.Done() },
			OnStoppedLeading: func() { fmt.Println("ended") },
		},
	})
}
