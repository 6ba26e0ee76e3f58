// Package main is the whole Kubernetes of the test cluster in one program.
//
// The components share nearly all of their dependencies, so one binary links
// in a quarter of the time and takes a quarter of the disk of seven. The
// cluster links it under each component's name and it acts as the name it was
// called by, as busybox does.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components builds the command of one component. The constructors register
// flags and feature gates globally, so only the one asked for may run.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
}

func main() {
	name := filepath.Base(os.Args[0])
	if name == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	newCommand, known := components[name]
	if !known {
		fmt.Fprintf(os.Stderr, "called as %q, which is no component: link this program as etcd, kubectl, kubelet or kube-*\n", name)
		os.Exit(2)
	}
	if name == "kubectl" {
		// kubectl prints its own errors in its own words; cli.Run would print them twice.
		if err := cli.RunNoErrOutput(newCommand()); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(cli.Run(newCommand()))
}
