// SPDX-License-Identifier: Apache-2.0

// Command weir-agent serves CNI requests on a node and guards its attachments.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/weir-cni/weir/agent"
	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/install"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	cmd := newCommand()
	cmd.AddCommand(newUninstallCommand())
	err := cmd.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "weir-agent:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := agent.Options{Version: version}
	o.LogLevel = &slog.LevelVar{}
	var standalone bool
	var folder string
	cmd := &cobra.Command{
		Use:   "weir-agent [--standalone --manifests DIR]",
		Short: "Serve CNI requests on this node and guard its attachments",
		Long: `weir-agent serves the CNI plugin weir on a unix socket: it creates the extra
interfaces of pods, attaches the programs that guard and count each of them, and
exports the counters to Prometheus.

In a Kubernetes cluster it runs as a DaemonSet: it watches the pods of its node and
all NetworkAttachmentDefinitions, and has running pods follow their annotation. With
--install it puts the plugin and weir's entry in their places on the node, and keeps
them there.

Traces of the requests are sent to an OpenTelemetry collector where the standard
variables name one, as OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318.

With --standalone it reads networks (NetworkAttachmentDefinition) and pods from
the YAML or JSON files of a folder, and follows their changes.

It may be stopped or killed at any time: what is attached goes on being guarded
and counted, and the next agent with the same directories takes it over.`,
		Example: `  # Serve a node of the cluster that a kubeconfig names
  weir-agent --node-name worker-1 --kubeconfig /etc/weir/kubeconfig

  # Serve the networks of a folder
  weir-agent --standalone --manifests /etc/weir/manifests

  # A second agent beside it, for a test
  weir-agent --standalone --manifests ./m --socket /tmp/t/weir.sock \
    --state-dir /tmp/t/state --bpf-dir /sys/fs/bpf/t --metrics-address ""`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case standalone:
				o.Manifests = folder
			case o.Node == "":
				return errors.New("--node-name is empty: it is the node's name in the cluster; without a cluster give --standalone")
			}
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel}))
			// What the Kubernetes client has to say goes to the same log.
			klog.SetSlogLogger(o.Log)
			return agent.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Node, "node-name", os.Getenv("NODE_NAME"), "this node's name in the cluster; default: $NODE_NAME")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "how the cluster is reached; default: the service account of the agent's pod")
	flags.StringVar(&o.KubeletSocket, "kubelet-socket", devices.KubeletSocket, "the kubelet's pod-resources API, for networks with a resourceName")
	flags.BoolVar(&standalone, "standalone", false, "serve without Kubernetes, from --manifests")
	flags.StringVar(&folder, "manifests", "/etc/weir/manifests", "folder of NetworkAttachmentDefinitions and pods, for --standalone")
	flags.StringVar(&o.Socket, "socket", api.DefaultSocket, "unix socket for the plugin and weirctl; only root may open it")
	flags.StringVar(&o.StateDir, "state-dir", api.DefaultStateDir, "where the records of sandboxes are kept")
	flags.StringVar(&o.BPFDir, "bpf-dir", api.DefaultBPFDir, "where programs and maps are pinned; bpffs is mounted if it is not")
	flags.StringVar(&o.CNIBinDir, "cni-bin-dir", install.DefaultBinDir, "where CNI plugins are that weir executes")
	flags.DurationVar(&o.Plugins.Timeout, "delegate-timeout", 2*time.Minute, "how long such a plugin may take before it is killed")
	flags.IntVar(&o.Plugins.Most, "delegates-at-once", 8, "how many such plugins may run at once; the others wait")
	flags.StringVar(&o.Plugins.Process, "delegates-beside", "", "execute such plugins in the mount namespace of the process with this directory in /proc, outside of the agent's cgroups: /proc/1 for an agent in a container")
	flags.StringVar(&o.Install.Plugin, "install", "", "install this file as the plugin weir in --cni-bin-dir, and weir's entry in --cni-conf-dir; default: install nothing")
	flags.StringVar(&o.Install.ConfDir, "cni-conf-dir", install.DefaultConfDir, "the runtime's directory of configurations, for --install")
	flags.StringVar(&o.Install.DefaultNetwork, "default-network", "", "the file in --cni-conf-dir of the default network; default: the first that has neither weir nor Multus in it")
	flags.StringVar(&o.Settings, "settings", "", "file with further keys of weir's entry, YAML or JSON, for --install")
	flags.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9842", "host:port of the Prometheus endpoint; empty for none")
	flags.StringVar(&o.MetricsConfig, "web.config.file", "", "TLS and authentication of that endpoint, in the format of Prometheus's exporters (exporter-toolkit); default: neither")
	flags.StringVar(&o.PageAddress, "page-address", "", "host:port of loopback for the agent's page, as 127.0.0.1:9452: this node's attachments, live, for everyone on this machine; default: on --socket alone")
	flags.BoolVar(&o.Profiles, "pprof", false, "serve the profiles of the agent's process there too, below /debug/pprof/")
	flags.TextVar(o.LogLevel, "log-level", &slog.LevelVar{}, "one of debug, info, warn, error; weirctl log-level changes it at run time")
	return cmd
}

func newUninstallCommand() *cobra.Command {
	o := agent.Options{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take weir off this node",
		Long: `uninstall takes weir's entry and the plugin off this node, so that pods start with
the default network alone, as before weir. The agent must be gone: it would put them
back.

Pods that still have networks of weir's keep their interfaces and guards, and are
named; weir's records stay for as long as there are any. Delete those pods before
weir is taken off, as nobody frees their addresses afterwards.`,
		Example: `  weir-agent uninstall`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			if err := agent.Uninstall(o); err != nil || !wait {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.StateDir, "state-dir", api.DefaultStateDir, "where the records of sandboxes are kept")
	flags.StringVar(&o.BPFDir, "bpf-dir", api.DefaultBPFDir, "where programs and maps are pinned")
	flags.StringVar(&o.CNIBinDir, "cni-bin-dir", install.DefaultBinDir, "the runtime's directory of plugins")
	flags.StringVar(&o.Install.ConfDir, "cni-conf-dir", install.DefaultConfDir, "the runtime's directory of configurations")
	flags.BoolVar(&wait, "wait", false, "do not end afterwards: for a DaemonSet, whose pods are started again when they end")
	return cmd
}
