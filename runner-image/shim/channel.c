/* The shim's means: its socket, its own copy, and what the kernel tells about memory. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int connect_runner(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    int found = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (found >= 0 && connect(found, (struct sockaddr *)&address, sizeof address) != 0) {
        close(found);
        found = -1;
    }
    return found;
}

int send_message(int socket, char tag, const char *body, size_t size, int descriptor)
{
    struct iovec parts[2] = {{&tag, 1}, {(void *)body, size}};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (descriptor >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

long receive_message(int socket, char *tag, char **body, int descriptors[2])
{
    static char buffer[LONGEST_MESSAGE + 2];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec part = {buffer, LONGEST_MESSAGE + 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
    ssize_t got;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    /* A runner that left something unread when it ended: the kernel says so, once, before it gives out what it sent. */
    while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    descriptors[0] = descriptors[1] = -1;
    if (got <= 0)
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(descriptors, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
    buffer[got] = '\0';
    *tag = buffer[0];
    *body = buffer + 1;
    return got - 1;
}

static int give_up(const char *what, const char *path)
{
    fprintf(stderr, "windlass-shim: %s %s: %s\n", what, path, strerror(errno));
    return 1;
}

int install(const char *target)
{
    static char block[1 << 16];
    int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return give_up("cannot read", "/proc/self/exe");
    int out = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (out < 0)
        return give_up("cannot write", target);
    ssize_t got;
    while ((got = read(in, block, sizeof block)) > 0)
        if (write(out, block, (size_t)got) != got)
            return give_up("cannot write", target);
    /* The mode by hand: it is another container, perhaps with another user, that runs this file. */
    if (got < 0 || fchmod(out, 0755) != 0 || close(out) != 0)
        return give_up("cannot write", target);
    return 0;
}

static long number_in(const char *path, const char *name)
{
    static char text[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got <= 0)
        return -1;
    text[got] = '\0';
    const char *at = text;
    size_t length = strlen(name);
    while (length && (strncmp(at, name, length) != 0 || at[length] != ' ')) {
        at = strchr(at, '\n');
        if (!at)
            return -1;
        at++;
    }
    return strtol(at + length, NULL, 10);
}

long memory_used(void)
{
    long found = number_in("/sys/fs/cgroup/memory.current", "");
    return found >= 0 ? found : number_in("/sys/fs/cgroup/memory/memory.usage_in_bytes", "");
}

static long either(const char *second_version, const char *first_version)
{
    long found = number_in(second_version, ""); /* "max" reads as 0: no limit */
    if (found < 0)
        found = number_in(first_version, "");
    return found < 0 ? 0 : found;
}

long memory_limit(void)
{
    return either("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
}

long memory_peak(void)
{
    return either("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes");
}

long oom_kills(void)
{
    long found = number_in("/sys/fs/cgroup/memory.events", "oom_kill");
    if (found < 0)
        found = number_in("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill");
    return found < 0 ? 0 : found;
}
