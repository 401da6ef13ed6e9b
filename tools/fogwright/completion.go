package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/fogwright/fogwright/boards"
)

// scripts teach a shell to ask `fogwright completion words` what could come next.
// They hold no knowledge of the commands, so they never go stale.
var scripts = map[string]string{
	"bash": `_fogwright() {
  local IFS=$'\n'
  COMPREPLY=($(fogwright completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [ ${#COMPREPLY[@]} -gt 0 ] || compopt -o default
}
complete -F _fogwright fogwright
`,
	"zsh": `#compdef fogwright
_fogwright() {
  local -a found
  found=(${(f)"$(fogwright completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( ${#found} )); then compadd -a found; else _files; fi
}
compdef _fogwright fogwright
`,
	"fish": `function __fogwright
  set -l words (commandline -opc) (commandline -ct)
  fogwright completion words -- $words[2..-1] 2>/dev/null
end
complete -c fogwright -a '(__fogwright)'
`,
}

func completionCommand() *command {
	return &command{
		name: "completion", summary: "print a completion script for a shell",
		usage: "bash|zsh|fish",
		examples: [][2]string{
			{`source <(fogwright completion bash)`, "for this shell"},
			{`fogwright completion zsh > "${fpath[1]}/_fogwright"`, "for every zsh from now on"},
			{`fogwright completion fish > ~/.config/fish/completions/fogwright.fish`, "for every fish from now on"},
		},
		run: func(fs *flag.FlagSet) runner {
			return func(ctx context.Context, args []string, s stdio) error {
				if len(args) > 0 && args[0] == "words" {
					words := args[1:]
					if len(words) > 0 && words[0] == "--" {
						words = words[1:]
					}
					for _, w := range complete(words) {
						fmt.Fprintln(s.out, w)
					}
					return nil
				}
				if len(args) != 1 || scripts[args[0]] == "" {
					return usagef("completion", "completion needs one of: bash, zsh, fish")
				}
				fmt.Fprint(s.out, scripts[args[0]])
				return nil
			}
		},
	}
}

// complete lists what the last of words could become. Nothing means a file name.
func complete(words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	done, last := words[:len(words)-1], words[len(words)-1]
	cmd := commands()
	for len(done) > 0 && len(cmd.sub) > 0 {
		if done[0] == "help" {
			done = done[1:]
			continue
		}
		if cmd = lookup(cmd, done[0]); cmd == nil {
			return nil
		}
		done = done[1:]
	}
	if len(cmd.sub) > 0 {
		return beginning(append(names(cmd), "help"), last)
	}
	if len(done) > 0 {
		if values := valuesOf(strings.TrimLeft(done[len(done)-1], "-")); values != nil {
			return beginning(values, last)
		}
	}
	if cmd.name == "completion" {
		return beginning([]string{"bash", "zsh", "fish"}, last)
	}
	if cmd.path == "board check" {
		return beginning(boards.Names(), last)
	}
	fs := cmd.flagSet()
	cmd.run(fs)
	var flags []string
	fs.VisitAll(func(f *flag.Flag) { flags = append(flags, "-"+f.Name) })
	return beginning(flags, last)
}

// valuesOf lists the values that a flag takes, where there is a list.
func valuesOf(flag string) []string {
	switch flag {
	case "board":
		return boards.Names()
	case "variant":
		return []string{"release", "dev"}
	case "until":
		return stages
	}
	return nil
}

func beginning(list []string, with string) []string {
	var all []string
	for _, s := range list {
		if strings.HasPrefix(s, with) {
			all = append(all, s)
		}
	}
	return all
}
