/* windlass-shim: process 1 of the main container of a container task.
 *
 *   windlass-shim --install FILE          copy this program to FILE (the init container does that)
 *   windlass-shim FOLDER -- COMMAND ...   run COMMAND for the runner that listens at FOLDER/runner.sock
 *
 * The image is anybody's, so this is one static file that needs nothing of it. The shim knows no more than the runner tells
 * it: it starts the command when the runner has a run for it, passes signals on, and reports how the command ended. It
 * exits only when the runner has said with which code, and that is after the end was committed; a pod whose main
 * container has finished therefore has nothing left to lose.
 *
 * When the runner is gone nobody keeps the lease, so another attempt may start: the command is ended at once.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    ENDED_BY_REQUEST = 0,     /* asked to stop before anything had begun */
    RUNNER_GONE = 4,          /* as a runner that cannot reach the API */
    LOOK_FOR_RUNNER_MS = 10,  /* between two tries to connect */
    RUNNER_PATIENCE_S = 300,  /* a starved node may take long to start the runner */
    MEMORY_EVERY_MS = 5000,   /* half a heartbeat */
};

struct shim {
    int socket;
    int signals;
    pid_t command; /* 0: not started, or ended */
    int signalled; /* the first signal that reached the command from us; 0: none */
    long oom_before;
    char result_path[4096];
};

static void quit(int code, const char *why)
{
    if (why)
        fprintf(stderr, "windlass-shim: %s\n", why);
    exit(code);
}

static void tell(struct shim *shim, char tag, const char *body, int descriptor)
{
    /* A runner that is gone shows at the next receive, which knows what to do. */
    (void)send_message(shim->socket, tag, body, strlen(body), descriptor);
}

static void signal_command(struct shim *shim, int number)
{
    if (shim->command > 0 && kill(-shim->command, number) == 0 && !shim->signalled)
        shim->signalled = number;
}

/* Whether SIGTERM (or SIGINT, by hand) has come; takes all signals that wait. */
static int asked_to_stop(struct shim *shim)
{
    struct signalfd_siginfo info;
    int asked = 0;
    while (read(shim->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD)
            asked = 1;
    return asked;
}

static void find_runner(struct shim *shim, const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/runner.sock", folder);
    time_t until = time(NULL) + RUNNER_PATIENCE_S;
    while ((shim->socket = connect_runner(path)) < 0) {
        struct pollfd wait = {shim->signals, POLLIN, 0};
        poll(&wait, 1, LOOK_FOR_RUNNER_MS);
        if (asked_to_stop(shim))
            quit(ENDED_BY_REQUEST, NULL);
        if (time(NULL) > until)
            quit(RUNNER_GONE, "the runner does not listen; see the log of the container `runner`");
    }
}

/* Hand over what must not appear in the log: only this container has the values of the Task's secrets. */
static void send_secrets(struct shim *shim)
{
    char *names = getenv("WINDLASS_SECRET_ENV");
    for (char *rest = names ? strdup(names) : NULL, *name; rest && (name = strsep(&rest, ","));) {
        const char *value = getenv(name);
        if (value && *value)
            tell(shim, 'S', value, -1);
    }
    unsetenv("WINDLASS_SECRET_ENV");
}

static void run_command(char *env, long size, const int output[2], int failed, char **command)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid(); /* a process group of its own: a signal reaches everything that it starts */
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, 0);
    dup2(output[0], 1);
    dup2(output[1], 2);
    for (char *entry = env; entry < env + size; entry += strlen(entry) + 1)
        putenv(entry);
    execvp(command[0], command);
    int why = errno;
    (void)!write(failed, &why, sizeof why);
    _exit(127);
}

static void start(struct shim *shim, char *env, long size, const int output[2], char **command)
{
    int failed[2], why = 0;
    char text[1024];
    shim->oom_before = oom_kills();
    /* Closed by a successful exec, so that the read below waits for exactly that. */
    if (pipe2(failed, O_CLOEXEC) != 0 || (shim->command = fork()) < 0) {
        shim->command = 0;
        why = errno;
    } else if (shim->command == 0) {
        run_command(env, size, output, failed[1], command);
    } else {
        close(failed[1]);
        if (read(failed[0], &why, sizeof why) != sizeof why)
            why = 0;
        close(failed[0]);
    }
    close(output[0]);
    close(output[1]);
    if (why) {
        if (shim->command > 0)
            waitpid(shim->command, NULL, 0);
        shim->command = 0;
        snprintf(text, sizeof text, "%s: %s", command[0], strerror(why));
        tell(shim, 'E', text, -1);
    }
}

/* The command has ended: end what it left behind, and report. */
static void report_end(struct shim *shim)
{
    int status = 0;
    char text[128];
    kill(-shim->command, SIGKILL); /* before it is reaped: until then nobody else gets its number */
    waitpid(shim->command, &status, 0);
    shim->command = 0;
    if (getpid() == 1)
        kill(-1, SIGKILL); /* what left the group; in a container all of it is the command's */
    int result = open(shim->result_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int why = result < 0 ? errno : 0;
    snprintf(text, sizeof text, "%d %d %d %ld %ld %ld", status, why, shim->signalled, oom_kills() - shim->oom_before,
             memory_limit(), memory_peak());
    tell(shim, 'X', text, result);
    if (result >= 0)
        close(result);
}

static void look_after_children(struct shim *shim)
{
    siginfo_t ended = {0};
    if (shim->command > 0 && waitid(P_PID, (id_t)shim->command, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid)
        report_end(shim);
    /* Process 1 inherits orphans. The command itself is left to the lines above, which look again at each signal. */
    while (getpid() == 1 && waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid) {
        if (ended.si_pid == shim->command)
            report_end(shim);
        else
            waitpid(ended.si_pid, NULL, 0);
        ended.si_pid = 0;
    }
}

static void obey(struct shim *shim, char **command)
{
    char tag, *body;
    int output[2];
    long size = receive_message(shim->socket, &tag, &body, output);
    if (size < 0) {
        signal_command(shim, SIGKILL);
        quit(RUNNER_GONE, "the runner is gone, so the command was ended");
    }
    if (tag == 'G' && output[1] >= 0 && shim->command == 0)
        start(shim, body, size, output, command);
    else if (tag == 'K') {
        look_after_children(shim); /* a command that has ended by itself must not look as if we had ended it */
        signal_command(shim, atoi(body));
    }
    else if (tag == 'B')
        quit(atoi(body), NULL);
}

static void report_memory(struct shim *shim)
{
    char text[32];
    long used = memory_used();
    snprintf(text, sizeof text, "%ld", used);
    if (used > 0 && shim->command > 0)
        tell(shim, 'M', text, -1);
}

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "--install") == 0)
        return install(arguments[2]);
    if (count < 4 || strcmp(arguments[2], "--") != 0)
        quit(2, "usage: windlass-shim --install FILE | windlass-shim FOLDER -- COMMAND [ARGUMENT...]");

    struct shim shim = {.socket = -1};
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ours, NULL);
    shim.signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    snprintf(shim.result_path, sizeof shim.result_path, "%s/result.json", arguments[1]);

    find_runner(&shim, arguments[1]);
    send_secrets(&shim);
    tell(&shim, 'R', "", -1);
    for (;;) {
        struct pollfd wait[2] = {{shim.socket, POLLIN, 0}, {shim.signals, POLLIN, 0}};
        if (poll(wait, 2, MEMORY_EVERY_MS) == 0)
            report_memory(&shim);
        if (wait[1].revents) {
            if (asked_to_stop(&shim))
                tell(&shim, 'T', "", -1);
            look_after_children(&shim);
        }
        if (wait[0].revents)
            obey(&shim, arguments + 3);
    }
}
