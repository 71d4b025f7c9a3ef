/* Version of the C interface of all kernels; kernels/library.py checks it. */
int vitkit_interface(void)
{
    return 1;
}
