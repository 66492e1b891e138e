/* cvx man, cvx completion: the option tables as man pages and shell completions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"

static const cvx_opt none[] = {{NULL, 0, 0, NULL, NULL, 0, 0, NULL}};

static cvx_status write_page(const char *dir, const cvx_command *c)
{
    char name[64], path[CVX_PATH_MAX];
    char *text = NULL;
    size_t len = 0;

    snprintf(name, sizeof name, "cvx-%s.1", strchr(c->name, ' ') + 1);
    CVX_RETURN_IF(cvx_path_join(path, dir, name));
    FILE *f = open_memstream(&text, &len);
    if (f == NULL) {
        return cvx_fail(CVX_ENOMEM, "no memory for a man page");
    }
    cvx_opts_man(c, f);
    fclose(f);
    cvx_status st = cvx_file_write(path, text, len);
    free(text);
    return st;
}

static int run_man(int argc, char **argv)
{
    const char *pos[1];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_man, NULL, argc, argv, pos, 0, 1, &n, &code)) {
        return code;
    }
    cvx_status st = CVX_OK;
    if (n == 1) {
        st = cvx_mkdirs(pos[0]);
    }
    for (int i = 0; st == CVX_OK && cvx_commands[i] != NULL; i++) {
        if (n == 1) {
            st = write_page(pos[0], cvx_commands[i]);
        } else {
            cvx_opts_man(cvx_commands[i], stdout);
        }
    }
    return cvx_cli_finish(st);
}

const cvx_command cvx_cmd_man = {
    .name = "cvx man",
    .args = "[DIR]",
    .summary = "Writes a man page for every command into DIR (or all to the terminal).",
    .opts = none,
    .run = run_man,
};

static void bash_command(const cvx_command *c)
{
    printf("        %s)\n            case \"$prev\" in\n", strchr(c->name, ' ') + 1);
    for (const cvx_opt *o = c->opts; o->name != NULL; o++) {
        if (o->type == CVX_OPT_CHOICE && o->name[0] != 0) {
            printf("                --%s) words=\"", o->name);
            for (const char *p = o->choices; *p != 0; p++) {
                putchar(*p == '|' ? ' ' : *p);
            }
            printf("\" ;;\n");
        } else if (o->meta != NULL && strcmp(o->meta, "DIR") == 0) {
            printf("                --%s) COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n",
                   o->name);
        } else if (o->name[0] != 0 && o->type != CVX_OPT_FLAG) {
            printf("                --%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n",
                   o->name);
        }
    }
    printf("                *) words=\"--help");
    for (const cvx_opt *o = c->opts; o->name != NULL; o++) {
        if (o->name[0] != 0) {
            printf(" --%s", o->name);
        }
    }
    printf("\" ;;\n            esac ;;\n");
}

static void bash(void)
{
    printf("# bash completion of cvx: source <(cvx completion bash)\n_cvx() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words=\"--help --version");
    for (int i = 0; cvx_commands[i] != NULL; i++) {
        printf(" %s", strchr(cvx_commands[i]->name, ' ') + 1);
    }
    printf("\"\n    else\n        case \"${COMP_WORDS[1]}\" in\n");
    for (int i = 0; cvx_commands[i] != NULL; i++) {
        bash_command(cvx_commands[i]);
    }
    printf("        esac\n    fi\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
           "    [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\n"
           "complete -F _cvx cvx\n");
}

static void fish(void)
{
    printf("# fish completion of cvx: cvx completion fish | source\n");
    for (int i = 0; cvx_commands[i] != NULL; i++) {
        const cvx_command *c = cvx_commands[i];
        const char *name = strchr(c->name, ' ') + 1;
        printf("complete -c cvx -n __fish_use_subcommand -f -a %s\n", name);
        for (const cvx_opt *o = c->opts; o->name != NULL; o++) {
            if (o->name[0] != 0) {
                printf("complete -c cvx -n '__fish_seen_subcommand_from %s' -l %s%s\n", name,
                       o->name, o->type == CVX_OPT_FLAG ? "" : " -r");
            }
        }
    }
}

static int run_completion(int argc, char **argv)
{
    const char *pos[1];
    int n, code;

    if (!cvx_cli_begin(&cvx_cmd_completion, NULL, argc, argv, pos, 1, 1, &n, &code)) {
        return code;
    }
    if (strcmp(pos[0], "bash") == 0) {
        bash();
    } else if (strcmp(pos[0], "zsh") == 0) {
        printf("autoload -U +X bashcompinit && bashcompinit\n");
        bash();
    } else if (strcmp(pos[0], "fish") == 0) {
        fish();
    } else {
        return cvx_cli_finish(
            cvx_fail(CVX_EINVAL, "unknown shell '%s': bash, zsh and fish are known", pos[0]));
    }
    return 0;
}

const cvx_command cvx_cmd_completion = {
    .name = "cvx completion",
    .args = "bash|zsh|fish",
    .summary = "Prints completions for a shell.",
    .opts = none,
    .run = run_completion,
};
