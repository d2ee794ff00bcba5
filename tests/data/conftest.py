"""Its presence lets the folders below import the helpers of this one."""
